"""Templates in the language of Go's text/template, without definitions and calls of other templates (no I/O).

`render` fills in a text from values as JSON has them. Of the functions there are Go's own, those of kubectl
(`base64decode`, `exists`) and docker's (`json`, `join`, `split`, `lower`, `upper`). Whatever else is met is
refused with its line. Templates and values may be hostile: text, nesting, steps and output are bounded.

Begin with `rendering`. Source: text/template's documentation.
"""

from crib.wire.go_template.actions import TEMPLATE_BYTES, MalformedTemplate
from crib.wire.go_template.parsing import NESTING
from crib.wire.go_template.rendering import STEPS, Template, render
from crib.wire.go_template.values import OUTPUT_CHARACTERS

__all__ = [
    "NESTING",
    "OUTPUT_CHARACTERS",
    "STEPS",
    "TEMPLATE_BYTES",
    "MalformedTemplate",
    "Template",
    "render",
]
