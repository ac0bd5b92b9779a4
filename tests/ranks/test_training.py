"""Two ranks train one model through growth, replicated or sharded, and go on from what they saved on any number."""

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from fxgrow import Grower
from fxgrow.curvature import analyze
from fxgrow.errors import AnalysisError, PlanError, RankError
from fxgrow.execution.ranks import Ranks
from fxgrow.record.digest import digest
from fxgrow.training import Shard, ShardedCheckpoints
from tests.ranks.conftest import OnRanks
from tests.ranks.small_runs import STEPS, batches, compare, run, share, traced, train, whole

#: behind both events
SAVED = 4


def replicated(rank: int) -> dict[str, Any]:
    """Train under DistributedDataParallel, and let a second run go on from the state of the first."""
    grower = run(DistributedDataParallel)
    train(grower, range(SAVED), share(rank))
    state = copy.deepcopy(grower.state_dict())  # an optimizer goes on in the tensors that it is given
    train(grower, range(SAVED, STEPS), share(rank))
    resumed = run(DistributedDataParallel)
    resumed.load_state_dict(copy.deepcopy(state))
    train(resumed, range(SAVED, STEPS), share(rank))
    return {"digest": digest(grower.graph_module), "whole": whole(grower), "resumed": whole(resumed), "state": state}


def wrapped_by_somebody_else(rank: int) -> dict[str, Any]:
    grower = run()
    outer, late = DistributedDataParallel(grower.model), DistributedDataParallel(grower.model)
    train(grower, range(STEPS), share(rank), called=outer)
    with pytest.raises(RankError) as error:
        late(batches()[0][0])
    return {"whole": whole(grower), "late": str(error.value)}


def sharded(rank: int, folder: str) -> dict[str, Any]:
    """Train under FSDP2, and let a second run go on from a checkpoint of the first."""
    grower, checkpoints = run(Shard()), ShardedCheckpoints(folder, keep=2)
    for step in range(STEPS):
        train(grower, range(step, step + 1), share(rank))
        if step < STEPS - 1:
            checkpoints.save(grower, step=step)
    parameters, optimizer = list(grower.model.parameters()), grower.optimizer
    moments = [state["exp_avg"] for state in optimizer.state.values()]
    resumed = run(Shard())
    last = checkpoints.load(resumed)
    train(resumed, range(last + 1, STEPS), share(rank))
    return {
        "all sharded": all(isinstance(tensor, DTensor) for tensor in [*parameters, *moments]),
        "held": list(map(id, optimizer.param_groups[0]["params"])) == list(map(id, parameters)),
        "moments": len(moments) == len(parameters),
        "whole": whole(grower),
        "resumed": whole(resumed),
    }


def sharded_by_hand(rank: int) -> str:
    model = traced()
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    with pytest.raises(AnalysisError) as error:
        analyze(model, F.cross_entropy, batches()[share(rank)])
    return str(error.value)


def on_one_rank(rank: int, folder: str) -> dict[str, Any]:
    return {
        "replicated": replicated(rank),
        "outer": wrapped_by_somebody_else(rank),
        "sharded": sharded(rank, folder),
        "by hand": sharded_by_hand(rank),
    }


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_two_ranks_train_as_one_through_two_events_and_resume_on_two_and_on_one(
    on_ranks: OnRanks, tmp_path: Path
) -> None:
    alone = run()
    train(alone, range(STEPS))
    assert len(alone.history) == 2
    ranks = on_ranks(on_one_rank, str(tmp_path / "run"))
    for found in ranks:
        assert found["replicated"]["digest"] == digest(alone.graph_module)
        for kind in ("replicated", "sharded"):
            compare(found[kind]["whole"], whole(alone))
            compare(found[kind]["resumed"], whole(alone))
        compare(found["outer"]["whole"], whole(alone))
        assert "DistributedDataParallel does not know it and would let it drift; call fxgrow." in found["outer"]["late"]
        assert all(found["sharded"][claim] for claim in ("all sharded", "held", "moments"))
        assert "its parameters are sharded over the ranks; let a Grower shard it" in found["by hand"]
    one = run()
    one.load_state_dict(ranks[0]["replicated"]["state"])
    train(one, range(SAVED, STEPS))
    compare(whole(one), whole(alone))
    one, checkpoints = run(), ShardedCheckpoints(tmp_path / "run")
    assert [path.name for path in checkpoints.paths()] == ["step_3", "step_4"]
    train(one, range(checkpoints.load(one) + 1, STEPS))
    compare(whole(one), whole(alone))


def dying(rank: int, folder: str) -> str:
    """Die on one rank in the middle of an event, when its loader is read."""
    grower, checkpoints = run(Shard()), ShardedCheckpoints(folder)
    train(grower, range(1), share(rank))
    checkpoints.save(grower, step=0)
    Path(folder, "step_7").mkdir(exist_ok=True)  # as a rank leaves it that dies while it writes

    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        if rank == 1:
            os._exit(0)
        yield from batches()[share(rank)]

    with pytest.raises(RankError) as error:
        grower.grow(loader())
    Path(folder, "message").write_text(str(error.value))
    os._exit(0)


def test_a_rank_that_dies_in_an_event_leaves_a_checkpoint_and_a_message(on_ranks: OnRanks, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):  # no rank came to its end
        on_ranks(dying, str(tmp_path / "run"))
    assert "another rank is gone or did not come" in (tmp_path / "run" / "message").read_text()
    grower, checkpoints = run(), ShardedCheckpoints(tmp_path / "run")
    with pytest.warns(UserWarning, match="step_7: it was not finished"):
        assert checkpoints.load(grower) == 0
    assert not grower.history


def test_an_average_of_the_weights_and_compiled_blocks_are_refused_beside_shards() -> None:
    model = traced()
    optimizer, ema = torch.optim.SGD(model.parameters()), torch.optim.swa_utils.AveragedModel(model)
    with pytest.raises(PlanError, match="ema: it averages whole weights, and Shard holds none; leave ema out"):
        Grower(model, F.cross_entropy, optimizer, ema=ema, wrap=Shard(), compile=False)
    with pytest.raises(PlanError, match="its blocks run as compiled code, which cannot be sharded; give the Grower"):
        Grower(model, F.cross_entropy, optimizer, wrap=Shard())


def test_one_process_is_a_run_of_one_rank() -> None:
    assert Ranks().count == 1
