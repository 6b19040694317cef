"""Loss and accuracy over steps, as SVG."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

HISTORY = Sequence[Mapping[str, float]]
WIDTH_INCHES, HEIGHT_INCHES = 9.0, 3.2
OF_TEACHER = "teacher/"


def curves_svg(histories: Mapping[str, HISTORY], *, levels: Mapping[str, float]) -> str:
    """Two panels: the loss of each run (log scale), and its top-1 on held-out images with `levels` as dashed lines.

    Where students follow several teachers, a third one has the losses of each.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure  # not pyplot, which would take over the backend of a caller's notebook

    with mpl.rc_context({"svg.hashsalt": "kd_ray", "font.size": 9}):
        keys = sorted({key for history in histories.values() for each in history for key in each})
        of_teachers = [key for key in keys if key.startswith(OF_TEACHER)]
        num_panels = 3 if of_teachers else 2
        figure = Figure(figsize=(WIDTH_INCHES * num_panels / 2, HEIGHT_INCHES), layout="constrained")
        loss_axes, accuracy_axes, *more_axes = figure.subplots(1, num_panels)
        for name, history in histories.items():
            _plot(loss_axes, name, history, "loss")
            # a run is measured on the val split, on test where there is none
            measured = "val_top1" if any("val_top1" in each for each in history) else "test_top1"
            _plot(accuracy_axes, name, history, measured, scale=100.0)
        for index, (name, level) in enumerate(levels.items()):
            accuracy_axes.axhline(100 * level, linestyle="--", color=f"C{len(histories) + index}", label=name)
        # matplotlib warns of a log scale without a value above zero
        positive = any(each.get("loss", 0.0) > 0 for history in histories.values() for each in history)
        loss_axes.set(xlabel="step", ylabel="training loss", yscale="log" if positive else "linear")
        accuracy_axes.set(xlabel="step", ylabel="top-1 on held-out images, %")
        for axes in more_axes:
            _plot_teachers(axes, histories, of_teachers)
        for axes in (loss_axes, accuracy_axes, *more_axes):
            axes.grid(alpha=0.3)
        accuracy_axes.legend(loc="lower right", fontsize=8)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return re.sub(r"^.*?(?=<svg)", "", buffer.getvalue(), flags=re.DOTALL)


def _plot_teachers(axes: Any, histories: Mapping[str, HISTORY], keys: Sequence[str]) -> None:
    for name, history in histories.items():
        for key in keys:
            if any(key in each for each in history):
                _plot(axes, f"{name}, {key.removeprefix(OF_TEACHER)}", history, key)
    axes.set(xlabel="step", ylabel="weighted losses of a teacher")
    axes.legend(loc="upper right", fontsize=8)


def _plot(axes: Any, name: str, history: HISTORY, key: str, *, scale: float = 1.0) -> None:
    points = [(each["step"], each[key] * scale) for each in history if key in each]
    axes.plot([step for step, _ in points], [value for _, value in points], label=name, marker="." if scale > 1 else "")
