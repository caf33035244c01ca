"""See inside: the stages of a forward pass, their shapes, and the attention maps.

The public names are imported when they are first used: looking at a model needs no trainer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm.runtime.lazy import lazy_names

if TYPE_CHECKING:
    from llm.inspection.alignment import Alignment, align
    from llm.inspection.callback import Inspection
    from llm.inspection.heads import HeadScores, head_scores
    from llm.inspection.lens import logit_lens
    from llm.inspection.page import attention_page
    from llm.inspection.probe import Capture, attention_maps, capture
    from llm.inspection.report import Report, inspect
    from llm.inspection.rollout import attention_rollout
    from llm.inspection.samples import TextSamples
    from llm.inspection.shapes import ShapeRow, markdown_table, shape_rows, text_table, trace_shapes
    from llm.inspection.ticks import text_labels, tick_labels, visible
    from llm.inspection.translations import TranslationInspection

__all__ = [
    "Alignment",
    "Capture",
    "HeadScores",
    "Inspection",
    "Report",
    "ShapeRow",
    "TextSamples",
    "TranslationInspection",
    "align",
    "attention_maps",
    "attention_page",
    "attention_rollout",
    "capture",
    "head_scores",
    "inspect",
    "logit_lens",
    "markdown_table",
    "shape_rows",
    "text_labels",
    "text_table",
    "tick_labels",
    "trace_shapes",
    "visible",
]

_NAMES = {
    "alignment": ("Alignment", "align"),
    "callback": ("Inspection",),
    "heads": ("HeadScores", "head_scores"),
    "lens": ("logit_lens",),
    "page": ("attention_page",),
    "probe": ("Capture", "attention_maps", "capture"),
    "report": ("Report", "inspect"),
    "rollout": ("attention_rollout",),
    "samples": ("TextSamples",),
    "shapes": ("ShapeRow", "markdown_table", "shape_rows", "text_table", "trace_shapes"),
    "ticks": ("text_labels", "tick_labels", "visible"),
    "translations": ("TranslationInspection",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
