# SPDX-License-Identifier: Apache-2.0
"""What people want to hear."""

from snapvault.model.notices import Notice, NoticeKind, Wish, is_wanted


def is_news(notice: Notice, wishes: frozenset[Wish]) -> bool:
    """Tell whether somebody with these wishes hears of it: a failure only once it is final."""
    is_tried_again = notice.kind is NoticeKind.FAILURE and notice.retry_at is not None
    return not is_tried_again and is_wanted(notice, wishes)
