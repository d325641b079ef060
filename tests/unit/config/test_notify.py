# SPDX-License-Identifier: Apache-2.0
"""Whom to tell, and that nothing secret is shown of it."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from snapvault.config.problems import ProblemError
from snapvault.config.settings import check_settings, load_settings
from snapvault.model.notices import Wish
from snapvault.model.settings import (
    MailSettings,
    NotifierSettings,
    PingSettings,
    Settings,
    WebhookSettings,
)

Write = Callable[[str, str], Path]

VAULTS = "vaults: {v: {store: 'file:///srv/v', recipients: [r], signer: s}}\n"
MAIL = "mail: {host: h, from: a@h, to: [b@h]%s}"


def read(write: Write, *lines: str) -> Settings:
    text = "".join(f"  {line}\n" for line in lines)
    return load_settings(write("s.yaml", f"{VAULTS}notify:\n{text}"))


def refusal(write: Write, line: str) -> ProblemError:
    with pytest.raises(ProblemError) as refused:
        read(write, line)
    assert refused.value.problem.line == 3
    return refused.value


def test_every_key_of_a_mail_is_read(write: Write, tmp_path: Path) -> None:
    settings = read(
        write,
        "ops-mail:",
        "  mail: {host: mail.example.org, port: 2525, security: tls, user: me,",
        '    password_file: pw, from: "Backup <a@example.org>", to: [b@example.org, c@x],',
        "    ca_bundle: ca.pem}",
        "  on: [always]",
        '  subject: "{{ title }}"',
        '  text: "{{ message }}"',
        "  timeout: 5s",
    )

    assert settings.notify == {
        "ops-mail": NotifierSettings(
            name="ops-mail",
            to=MailSettings(
                host="mail.example.org",
                sender="Backup <a@example.org>",
                to=("b@example.org", "c@x"),
                port=2525,
                security="tls",
                user="me",
                password_file=tmp_path / "pw",
                ca_bundle=tmp_path / "ca.pem",
            ),
            on=frozenset((Wish.ALWAYS,)),
            subject="{{ title }}",
            text="{{ message }}",
            timeout=timedelta(seconds=5),
        )
    }


def test_every_key_of_a_webhook_and_a_ping_is_read(write: Write, tmp_path: Path) -> None:
    settings = read(
        write,
        'hook: {webhook: {url: "https://me:pw@h.example/{source}/{vault}?a={policy}",',
        '  headers: {Authorization: Bearer 1}, body: "{}", ca_bundle: ca.pem}}',
        "watch: {ping: {url_file: /u, ca_bundle: ca.pem}}",
    )

    assert settings.notify["hook"].to == WebhookSettings(
        url="https://me:pw@h.example/{source}/{vault}?a={policy}",
        headers={"Authorization": "Bearer 1"},
        body="{}",
        ca_bundle=tmp_path / "ca.pem",
    )
    assert settings.notify["watch"].to == PingSettings(
        url_file=Path("/u"), ca_bundle=tmp_path / "ca.pem"
    )
    assert "Bearer" not in repr(settings)
    assert "me:pw" not in repr(settings)


def test_what_is_left_out_is_as_usual(write: Write) -> None:
    notifier = read(write, f"m: {{{MAIL % ''}}}").notify["m"]

    assert notifier == NotifierSettings("m", MailSettings("h", "a@h", ("b@h",)))


@pytest.mark.parametrize(("security", "port"), [("starttls", 587), ("tls", 465), ("none", 25)])
def test_the_port_is_the_usual_one_of_the_security(write: Write, security: str, port: int) -> None:
    to = read(write, f"m: {{{MAIL % f', security: {security}'}}}").notify["m"].to

    assert isinstance(to, MailSettings)
    assert (to.security, to.port) == (security, port)


def test_secrets_can_be_credentials_of_systemd(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/creds")

    notify = read(
        write,
        f"a: {{{MAIL % ', user: me, password_credential: smtp'}}}",
        "b: {webhook: {url_credential: hook}}",
        "c: {ping: {url_credential: ping}}",
    ).notify

    assert isinstance(notify["a"].to, MailSettings)
    assert notify["a"].to.password_file == Path("/run/creds/smtp")
    assert isinstance(notify["b"].to, WebhookSettings)
    assert notify["b"].to.url_file == Path("/run/creds/hook")
    assert isinstance(notify["c"].to, PingSettings)
    assert notify["c"].to.url_file == Path("/run/creds/ping")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{}", 'expected exactly one of "mail", "ping", "webhook", found none'),
        ("{ping: {url: http://h}, webhook: {url: http://h}}", 'found "webhook" and "ping"'),
        ("{mails: {}}", 'field "notify.m.mails": unknown key "mails"'),
        ("{mail: {host: h, to: [b@h]}}", 'field "notify.m.mail.from": expected a value'),
        ("{mail: {host: h, sender: a@h, from: a@h, to: [b@h]}}", 'unknown key "sender"'),
        ("{mail: {host: h, from: a@h, to: []}}", "expected at least one entry"),
        ("{mail: {host: h, from: a@h, to: b@h}}", "expected a list, found text"),
        ("{mail: {host: h, from: a@h, to: [b@h, b@h]}}", "expected each entry once"),
        ("{mail: {host: h, from: a, to: [b@h]}}", "expected a mail address such as"),
        ("{mail: {host: h, from: a@, to: [b@h]}}", "expected a mail address such as"),
        ("{mail: {host: h, from: '@h', to: [b@h]}}", "expected a mail address such as"),
        ("{mail: {host: h, from: a@h, to: ['b@h, c@h']}}", "expected a mail address such as"),
        ('{mail: {host: h, from: a@h, to: ["b@h\\r\\nBcc: c@h"]}}', "expected a mail address"),
        ('{mail: {host: h, from: "a\\n <a@h>", to: [b@h]}}', "expected a mail address such as"),
        ("{mail: {host: 'h:587', from: a@h, to: [b@h]}}", "expected the name of a mail server"),
        ("{mail: {host: smtp://h, from: a@h, to: [b@h]}}", "expected the name of a mail server"),
        ("{mail: {host: 'a b', from: a@h, to: [b@h]}}", "expected the name of a mail server"),
        (f"{{{MAIL % ', port: 0'}}}", "expected a number of at least 1"),
        (f"{{{MAIL % ', port: 65536'}}}", "expected a number of at most 65535"),
        (f"{{{MAIL % ', security: ssl'}}}", 'expected "starttls", "tls" or "none", found "ssl"'),
        (f"{{{MAIL % ', user: me'}}}", "expected a user and a password, or neither"),
        (f"{{{MAIL % ', password_file: pw'}}}", "expected a user and a password, or neither"),
        (f"{{{MAIL % ', user: a, password_file: a, password_credential: a'}}}", "at most one of"),
        (f"{{{MAIL % ''}, on: []}}", "expected at least one entry"),
        (
            f"{{{MAIL % ''}, on: [successes]}}",
            'expected "failure", "recovery", "breach" or "always"',
        ),
        (f"{{{MAIL % ''}, on: always}}", "expected a list"),
        (f"{{{MAIL % ''}, timeout: 0s}}", "expected a duration of at least 1s"),
        (f"{{{MAIL % ''}, timeout: 11m}}", "expected a duration of at most 10m"),
        ("{ping: {url: http://h}, on: [always]}", 'expected "on" with "mail" or "webhook" only'),
        ("{webhook: {url: http://h}, text: a}", 'expected "text" with "mail" only'),
        ("{ping: {url: http://h}, subject: a}", 'expected "subject" with "mail" only'),
        ("{ping: {}}", 'expected exactly one of "url", "url_credential", "url_file", found none'),
        ("{ping: {url: http://h, url_file: a}}", 'found "url" and "url_file"'),
        ("{webhook: {url: http://h, headers: {Host: a}}}", "that SnapVault sets itself"),
        ("{webhook: {url: http://h, headers: {A: a, a: b}}}", 'found "a" twice'),
        ("{webhook: {url: http://h, headers: {A b: a}}}", "expected names of headers such as"),
        ('{webhook: {url: http://h, headers: {A: "a\\nb"}}}', 'expected header "A" to be text on'),
        ("{webhook: {url: http://h, headers: {A: 5}}}", 'expected header "A" to be text on'),
        ("{webhook: {url: http://h, headers: [A]}}", "expected a mapping of headers, found a list"),
        ("{webhook: {url_file: '~nobody-here/x'}}", '"notify.m.webhook.url_file": expected a path'),
    ],
)
def test_wrong_notifiers_are_refused(write: Write, written: str, message: str) -> None:
    assert message in str(refusal(write, f"m: {written}"))


@pytest.mark.parametrize(
    "written",
    [
        "m: {webhook: {url: ftp://h.example/hunter2}}",
        "m: {webhook: {url: h.example/hunter2}}",
        "m: {webhook: {url: 'https:///hunter2'}}",
        "m: {webhook: {url: 'https://h:port/hunter2'}}",
        "m: {webhook: {url: 'https://h:0/hunter2'}}",
        "m: {webhook: {url: 'https://[h/hunter2'}}",
        "m: {webhook: {url: 'https://h/hunter2 a'}}",
        'm: {webhook: {url: "https://h/hunter2\\n"}}',
        "m: {webhook: {url: 'https://h/{sources}/hunter2'}}",
        "m: {ping: {url: [https://h/hunter2]}}",
        "m: {webhook: https://h.example/hunter2}",
        "m: {webhook: {https://h.example/hunter2}}",
        "m: https://h.example/hunter2",
        "https://h.example/hunter2: {ping: {url: http://h}}",
        "m: {webhook: {url: http://h, headers: {Authorization Bearer hunter2}}}",
        "m: {webhook: {url: http://h, headers: hunter2}}",
        "m: {webhook: {url: http://h, headers: {'X hunter2': a}}}",
        "m: {webhook: {url: http://h, headers: {Host: hunter2}}}",
        'm: {webhook: {url: http://h, headers: {A: "hunter2\\n"}}}',
        "m: {mail: smtp://me:hunter2@h}",
        "m: {mail: {host: 'me:hunter2@h', from: a@h, to: [b@h]}}",
        "m: {mail: {host: h, from: a@h, to: [b@h], user: a, password: hunter2}}",
        "m: {mail: {host: h, from: a@h, to: [b@h], port: hunter2}}",
    ],
)
def test_nothing_secret_is_shown_of_what_is_wrong(write: Write, written: str) -> None:
    refused = refusal(write, written)

    assert 'field "notify' in str(refused)
    assert "expected" in str(refused) or "unknown key" in str(refused)
    assert "hunter2" not in f"{refused} {refused.hint} {refused.problem}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ title", "found an error in its line 1: unexpected end of template"),
        ("a\\n{% if %}", "found an error in its line 2: "),
        ("{% for a in b %}", "found an error in its line 1: "),
        ("{{ " + "(" * 5000, "expected a template"),
        ("{{ " + "9" * 5000 + " }}", "expected a template"),
    ],
)
def test_a_template_that_cannot_be_parsed_is_wrong(
    write: Write, template: str, message: str
) -> None:
    refused = refusal(write, f'm: {{{MAIL % ""}, subject: "{template}"}}')

    assert refused.problem.field == "notify.m.subject"
    assert message in str(refused)
    assert "expected a template" in str(
        refusal(write, f'm: {{webhook: {{url: http://h, body: "{template}"}}}}')
    )


def test_all_notifiers_are_checked(write: Write) -> None:
    path = write("s.yaml", VAULTS + "notify:\n  a: {ping: {}}\n  b: {maill: {}}\n")

    problems = check_settings(path)

    assert [(problem.line, problem.field) for problem in problems] == [
        (3, "notify.a.ping"),
        (4, "notify.b.maill"),
    ]
    assert problems[1].hint == 'Did you mean "mail"?'
