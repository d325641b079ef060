# SPDX-License-Identifier: Apache-2.0
"""Cipher feedback from any block on. Source: NIST SP 800-38A, F.3.17 (CFB128-AES256)."""

import pytest

from snapvault.adapters.sealers.cfb import Feedback
from snapvault.adapters.sealers.passphrase import Secret

KEY = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"
BEFORE = bytes(range(16))
CLEAR = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
SEALED = bytes.fromhex(
    "dc7e84bfda79164b7ecd8486985d386039ffed143b28b1c832113c6331e5407b"
    "df10132415e54b92a13ed0a8267ae2f975a385741ab9cef82031623d55b1e471"
)


@pytest.mark.parametrize("block", range(4))
@pytest.mark.parametrize("length", [0, 1, 15, 16, 64])
def test_any_block_needs_the_one_before_it_and_nothing_else(block: int, length: int) -> None:
    feedback = Feedback(Secret(f"9:{KEY}"))
    begin = 16 * block
    before = SEALED[begin - 16 : begin] if block else BEFORE

    assert feedback.decrypt(before, SEALED[begin:][:length]) == CLEAR[begin:][:length]


@pytest.mark.parametrize("told", ["", "9:", f"8:{KEY}", f"2:{KEY}", KEY, f"9:{KEY[:-2]}zz"])
def test_what_is_no_key_of_aes_is_refused_without_showing_it(told: str) -> None:
    with pytest.raises(ValueError, match="not a key of AES") as caught:
        Feedback(Secret(told))

    assert caught.value.__cause__ is None
    assert KEY[:8] not in str(caught.value)


def test_a_key_is_not_shown() -> None:
    feedback = Feedback(Secret(f"9:{KEY}"))

    assert KEY[:8] not in f"{feedback!r} {feedback} {vars(feedback)}"
