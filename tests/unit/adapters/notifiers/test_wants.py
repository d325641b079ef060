# SPDX-License-Identifier: Apache-2.0
import pytest

from snapvault.adapters.notifiers.opening import check_templates, open_notifier
from snapvault.model.notices import NoticeKind, Wish
from snapvault.model.settings import (
    MailSettings,
    NotifierSettings,
    PingSettings,
    WebhookSettings,
)
from tests.support.notices import AT, a_notice

MAIL = MailSettings(host="mail.example.org", sender="a@example.org", to=("b@example.org",))
HOOK = WebhookSettings(url="https://hooks.example.org/x")
PING = PingSettings(url="https://hc.example.org/x")


@pytest.mark.parametrize("to", [MAIL, HOOK], ids=["mail", "webhook"])
def test_people_hear_of_a_failure_once_it_is_final(to: MailSettings | WebhookSettings) -> None:
    for wishes in (frozenset((Wish.FAILURE,)), frozenset((Wish.ALWAYS,))):
        notifier = open_notifier(NotifierSettings(name="ops", to=to, on=wishes))

        assert notifier.wants(a_notice())
        assert not notifier.wants(a_notice(retry_at=AT))


@pytest.mark.parametrize("to", [MAIL, HOOK], ids=["mail", "webhook"])
def test_people_hear_what_they_wish_for(to: MailSettings | WebhookSettings) -> None:
    usual = open_notifier(NotifierSettings(name="ops", to=to))
    recovery = open_notifier(NotifierSettings(name="ops", to=to, on=frozenset((Wish.RECOVERY,))))

    heard = [kind for kind in NoticeKind if usual.wants(a_notice(kind))]

    assert heard == [
        NoticeKind.FAILURE,
        NoticeKind.MISSED,
        NoticeKind.BREACH,
        NoticeKind.RECOVERY,
    ]
    assert [kind for kind in NoticeKind if recovery.wants(a_notice(kind))] == [NoticeKind.RECOVERY]


def test_a_ping_hears_of_each_attempt_and_of_nothing_else() -> None:
    ping = open_notifier(NotifierSettings(name="hc", to=PING, on=frozenset()))

    heard = [kind for kind in NoticeKind if ping.wants(a_notice(kind, retry_at=AT))]

    assert heard == [NoticeKind.START, NoticeKind.SUCCESS, NoticeKind.FAILURE]
    assert not ping.wants(a_notice(NoticeKind.FAILURE, run=None))


def test_templates_are_checked_by_their_field() -> None:
    settings = NotifierSettings(
        name="ops",
        to=WebhookSettings(url="https://hooks.example.org/", body="{% if %}"),
        subject="{{ title }}",
        text="{{ title",
    )

    assert sorted(check_templates(settings)) == ["body", "text"]
