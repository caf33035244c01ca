"""See inside: the stages of a forward pass, their shapes, the attention maps."""

from llm.inspection.callback import Inspection
from llm.inspection.probe import Capture, Stage, capture
from llm.inspection.shapes import ShapeRow, markdown_table, shape_rows, text_table, trace_shapes
from llm.inspection.ticks import tick_labels, visible

__all__ = [
    "Capture",
    "Inspection",
    "ShapeRow",
    "Stage",
    "capture",
    "markdown_table",
    "shape_rows",
    "text_table",
    "tick_labels",
    "trace_shapes",
    "visible",
]
