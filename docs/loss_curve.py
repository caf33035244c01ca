"""Draw the loss curves of a run: `python docs/loss_curve.py runs/gpt/version_0 docs/pictures/loss.png`."""

import sys
from pathlib import Path

from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

CURVES = {"train/loss": ("training", "#9aa5b1"), "validation/loss": ("validation", "#0b6e99")}


def draw(run: Path, picture: Path) -> None:
    """Write a PNG with the training and validation loss of a run over its steps."""
    events = EventAccumulator(str(run)).Reload()
    figure = Figure(figsize=(7, 3.2), dpi=110, layout="constrained")
    axis = figure.subplots()
    for tag, (name, colour) in CURVES.items():
        scalars = events.Scalars(tag)
        axis.plot([scalar.step for scalar in scalars], [scalar.value for scalar in scalars], label=name, color=colour)
        print(name, [(scalar.step, round(scalar.value, 2)) for scalar in scalars])
    axis.set_xlabel("optimizer step")
    axis.set_ylabel("loss (nats a token)")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.savefig(picture, metadata={"Software": None})


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
