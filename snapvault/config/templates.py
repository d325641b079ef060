# SPDX-License-Identifier: Apache-2.0
"""The syntax of templates; what they may use is for who renders them to say."""

from snapvault.config.problems import quoted


def template(text: str) -> str:
    """Check a Jinja template.

    Raises:
        ValueError: Jinja cannot parse it; the message says where.
    """
    # Few files have templates, and Jinja takes a while to load.
    from jinja2 import Environment, TemplateSyntaxError  # noqa: PLC0415 - see above

    try:
        Environment(autoescape=False).parse(text)  # noqa: S701 - nothing is rendered here
    except TemplateSyntaxError as error:
        reason = " ".join((error.message or "it cannot be read").rstrip(".").split())
        shown = quoted(reason.replace("'", '"'), limit=200)[1:-1]
        raise ValueError(
            f"expected a template in the syntax of Jinja, found an error in its line"
            f" {error.lineno}: {shown}"
        ) from error
    except (RecursionError, ValueError, OverflowError) as error:
        raise ValueError("expected a template that Jinja can read, found one too deep") from error
    return text
