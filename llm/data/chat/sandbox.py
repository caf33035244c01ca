"""Jinja for chat templates of anybody: in a sandbox, and with `{% generation %}` blocks."""

from __future__ import annotations

import functools
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


DAY = datetime(2024, 7, 26)
"""Today, for templates that write it into a prompt: the day that Llama 3's own take where no other is told. With the
real one a run that is resumed tomorrow would see other prompts."""


@functools.cache
def environment(is_strict: bool = True) -> Environment:
    """Jinja as Hugging Face's templates expect it, where a template can reach nothing but its arguments.

    Args:
        is_strict: writing what is not there is an error. It leaves nothing in `transformers`, as which models that are
            published were trained.
    """
    from jinja2 import TemplateError, Undefined, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %} ... {% endgeneration %}`: a mark before the block and one after it."""

        tags = {"generation"}  # noqa: RUF012 (as Jinja has it)

        def parse(self, parser: Parser) -> list[nodes.Node]:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            mark = nodes.Output([nodes.Name("generation_mark", "load")], lineno=line)
            return [mark, *body, nodes.Output([nodes.Name("generation_mark", "load")], lineno=line)]

    class Unprintable(Undefined):
        """What is not there can be asked for (`if tools`), but not written: a misspelled name would leave nothing."""

        __slots__ = ()
        __str__ = Undefined._fail_with_undefined_error

    def refuse(message: str) -> None:
        raise TemplateError(message)

    undefined = Unprintable if is_strict else Undefined
    found = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols], undefined=undefined
    )
    found.globals |= {"raise_exception": refuse, "strftime_now": DAY.strftime}
    found.filters["tojson"] = _json  # Jinja's own is for HTML
    return found


def _json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """The filter `tojson`, as `transformers` has it."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
