import pytest

from fxgrow.record.record import record_of


def test_the_old_home_of_the_record_passes_its_names_on_and_warns():
    with pytest.warns(DeprecationWarning, match="import record_of from fxgrow.record.record"):
        from fxgrow.graph.record import record_of as found
    assert found is record_of
    with pytest.raises(ImportError):
        from fxgrow.graph.record import nothing  # noqa: F401
