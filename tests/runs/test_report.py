from fxgrow.runs.metrics import EpochMetrics, milestones
from fxgrow.runs.report import value_and_error


def test_milestones_are_start_events_and_end() -> None:
    sizes = [100, 100, 120, 120, 130]
    metrics = [
        EpochMetrics("grown", e, size, 2 * size, 0.1, 1.0, 1.0 / (e + 1), 0.5, 1.0) for e, size in enumerate(sizes)
    ]
    found = [(name, at.epoch, at.parameters, at.flops) for name, at in milestones(metrics)]
    assert found == [("start", 0, 100, 200), ("event 1", 1, 120, 240), ("event 2", 3, 130, 260), ("end", 4, 130, 260)]


def test_a_score_is_spelled_to_the_digits_of_its_error() -> None:
    assert value_and_error(-12.1148, 0.09566) == ("-12.115", "± 0.096")
    assert value_and_error(-0.00285, 2.84e-5) == ("-0.002850", "± 0.000028")
    assert value_and_error(-1234.5, 67.0) == ("-1234", "± 67")
    assert value_and_error(None, None) == ("", "")
