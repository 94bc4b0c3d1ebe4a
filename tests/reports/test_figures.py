import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_hex

from limnet.evaluation.calibration import reliability
from limnet.method.prompts import Click, Crop
from limnet.reports.figures import (
    MASK,
    NEGATIVE,
    OPACITY,
    POSITIVE,
    TRUTH,
    Panel,
    bars,
    reliability_diagram,
    round_curves,
    show_panels,
    show_slices,
    training_curve,
)

SLICES = np.linspace(0, 1, 3 * 8 * 10).reshape(3, 8, 10).astype(np.float32)


def square(count=3):
    masks = np.zeros((count, 8, 10), dtype=bool)
    masks[:, 2:5, 3:7] = True
    return masks


def panels(figure):
    return [axis for axis in figure.axes if axis.images]


def legend(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_every_slice_gets_its_panel_and_all_share_one_scale():
    figure = show_slices(SLICES, titles=["a", "b", "c"], columns=2)
    assert [axis.get_title() for axis in panels(figure)] == ["a", "b", "c"]
    assert len(figure.axes) == 4  # two rows of two
    for axis, image in zip(panels(figure), SLICES, strict=True):
        assert axis.images[0].get_clim() == (0, 1)
        np.testing.assert_allclose(axis.images[0].get_array(), image)


def test_colour_images_have_their_channels_last():
    colours = np.stack([SLICES, SLICES / 2, SLICES / 4], axis=1)
    figure = show_slices(colours)
    shown = panels(figure)[1].images[0].get_array()
    np.testing.assert_allclose(shown, np.moveaxis(colours[1], 0, -1))


def test_a_mask_is_filled_where_it_is_and_nowhere_else():
    figure = show_slices(SLICES, square())
    overlay = panels(figure)[0].images[1].get_array()
    assert to_hex(overlay[2, 3]) == MASK.lower()
    assert overlay[2, 3, 3] == OPACITY
    assert overlay[..., 3].sum() == OPACITY * square()[0].sum()


def test_the_truth_is_an_outline_and_an_empty_slice_has_none():
    target = square()
    target[1] = False
    figure = show_slices(SLICES, target=target)
    outlines = [len(axis.collections) for axis in panels(figure)]
    assert outlines == [1, 0, 1]
    assert to_hex(panels(figure)[0].collections[0].get_edgecolor()[0]) == TRUTH.lower()


def test_clicks_stand_on_their_slice_at_column_and_row_in_the_colour_of_their_sign():
    clicks = [Click(12, 2, 7), Click(12, 5, 1, positive=False), Click(40, 0, 0)]
    figure = show_slices(SLICES, clicks=clicks, slice_indices=[11, 12, 13])
    marks = [axis.lines for axis in panels(figure)]
    assert [len(lines) for lines in marks] == [0, 2, 0]
    assert [line.get_xydata()[0].tolist() for line in marks[1]] == [[7, 2], [1, 5]]
    assert [line.get_color() for line in marks[1]] == [POSITIVE, NEGATIVE]
    assert marks[1][0].get_marker() != marks[1][1].get_marker()


def test_the_legend_names_only_what_is_shown():
    assert legend(show_slices(SLICES)) == []
    assert legend(show_slices(SLICES, square())) == ["mask"]
    full = show_slices(SLICES, square(), square(), [Click(0, 1, 1)])
    assert legend(full) == ["mask", "truth", "click on it"]


def test_rows_have_their_names():
    figure = show_slices(SLICES, row_names=["first", "second", "third"], columns=1)
    assert [axis.get_ylabel() for axis in panels(figure)] == ["first", "second", "third"]


def test_a_figure_is_not_left_open_to_be_shown_a_second_time():
    before = pyplot.get_fignums()
    show_slices(SLICES)
    training_curve([1.0, 0.5])
    assert pyplot.get_fignums() == before


def test_what_does_not_fit_the_images_is_refused():
    with pytest.raises(ValueError, match=r"masks must be \(3, 8, 10\)"):
        show_slices(SLICES, square(2))
    with pytest.raises(ValueError, match="target must be"):
        show_slices(SLICES, target=square(2))
    with pytest.raises(ValueError, match="slice index, got 3 and 1"):
        show_slices(SLICES, slice_indices=[4])
    with pytest.raises(ValueError, match="got 0"):
        show_slices(SLICES[:0])


def test_the_curve_is_the_mean_of_a_twentieth_of_the_run():
    losses = np.random.default_rng(0).uniform(0.1, 1, 100)
    axis = training_curve(losses.tolist()).axes[0]
    dots, line = axis.lines
    np.testing.assert_allclose(dots.get_ydata(), losses)
    slow = [losses[max(0, i - 4) : i + 1].mean() for i in range(100)]
    np.testing.assert_allclose(line.get_ydata(), slow)
    assert axis.get_yscale() == "log"


def test_the_scores_of_a_validation_stand_in_a_panel_below_the_loss():
    figure = training_curve([1.0, 0.5, 0.4, 0.3], [(2, 0.6), (4, 0.75)])
    loss, validation = figure.axes
    assert validation.lines[0].get_xydata().tolist() == [[2, 0.6], [4, 0.75]]
    assert [text.get_text() for text in validation.texts] == [" 0.75"]
    assert validation.get_title("left") == "validation" and validation.get_yscale() == "linear"
    assert validation.get_xlim() == loss.get_xlim()
    assert (loss.get_xlabel(), validation.get_xlabel()) == ("", "iteration")
    assert len(training_curve([1.0, 0.5]).axes) == 1


def test_a_run_of_one_iteration_has_a_curve_too():
    assert training_curve([0.3]).axes[0].lines[1].get_ydata().tolist() == [0.3]


def test_a_reliability_diagram_has_a_panel_a_name_and_a_dot_a_bin():
    curve = reliability(np.array([0.05, 0.15, 0.95]), np.array([False, True, True]))
    figure = reliability_diagram({"before": curve, "after": curve})
    assert [axis.get_title() for axis in figure.axes] == ["before", "after"]
    [dots] = figure.axes[0].collections
    np.testing.assert_allclose(dots.get_offsets(), [[0.05, 0], [0.15, 1], [0.95, 1]])


def test_round_curves_show_another_method_beside_ours():
    scores, beside = {"liver": [0.5, 0.6]}, {"liver": [0.4, 0.3]}
    figure = round_curves(scores, beside=beside, methods=("with MRF", "w/o MRF"))
    [axis] = figure.axes
    assert [list(line.get_ydata()) for line in axis.lines] == [[0.4, 0.3], [0.5, 0.6]]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["w/o MRF", "with MRF"]


def test_panels_of_any_size_stand_in_their_row_under_their_column():
    wide = np.zeros((4, 12), dtype=np.float32)
    rows = {"a": [Panel(SLICES[0], title="DSC 0.50"), Panel(wide)], "b": [Panel(SLICES[1])]}
    figure = show_panels(rows, headings=["first", "second"])
    assert [axis.get_title() for axis in panels(figure)] == ["first\nDSC 0.50", "second", ""]
    assert [axis.get_ylabel() for axis in panels(figure)] == ["a", "", "b"]
    assert len(figure.axes) == 4  # the last one is empty
    with pytest.raises(ValueError, match="got 2 rows without one"):
        show_panels({"a": [], "b": []})


def test_probabilities_share_one_scale_and_one_colour_bar():
    maps = [Panel(SLICES[0], probability=SLICES[number] * 0.3) for number in (0, 2)]
    figure = show_panels({"a": [Panel(SLICES[0]), *maps]})
    shown = [axis.images[0] for axis in panels(figure)[1:]]
    assert {each.get_clim() for each in shown} == {(0, 1)}
    np.testing.assert_allclose(shown[1].get_array(), SLICES[2] * 0.3)
    bar = figure.axes[-1]
    assert bar.get_xlabel() == "probability"
    assert len(show_panels({"a": [Panel(SLICES[0])]}).axes) == 1  # no map, no bar


def test_a_close_up_of_a_panel_moves_its_clicks_and_drops_those_outside():
    clicks = [Click(0, 3, 5), Click(0, 7, 9, positive=False)]
    panel = Panel(SLICES[0], square()[0], square()[0], clicks, title="a").within(Crop(2, 6, 3, 7))
    assert panel.image.tolist() == SLICES[0][2:6, 3:7].tolist()
    assert panel.mask.sum() == panel.target.sum() == 12
    assert panel.clicks == [Click(0, 1, 2)] and panel.title == "a" and panel.probability is None


def test_bars_have_their_numbers_and_the_papers_line():
    quantities = {"speed": {"lite": 20.0, "paper": 0.5}, "seconds": {"lite": 1, "paper": 2}}
    figure = bars(quantities, published={"speed": 31.25}, columns=1)
    speed, seconds = figure.axes
    assert [bar.get_width() for bar in speed.patches] == [20, 0.5]
    assert [text.get_text() for text in speed.texts] == [" 20", " 0.5"]
    assert speed.get_title(loc="right") == "dashed: paper, 31.25"
    assert speed.lines[0].get_xdata() == [31.25, 31.25] and len(seconds.lines) == 0
    assert (speed.get_title("left"), seconds.get_title("left")) == ("speed", "seconds")
    assert speed.get_xlim()[1] > 31.25
