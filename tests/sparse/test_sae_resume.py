"""A training that is cut off goes on to the same bytes, and two processes that share each batch find what one finds."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import Tensor

from cloche.errors import ClocheError
from cloche.sparse import SAE, BatchTopK, Gated, JumpReLU, ReLU, SyntheticFeatures, TopK, Training, Wiring, train_sae
from cloche.sparse.saes import AuxLoss, Batch, SaveState, continue_training, iter_train_sae
from cloche.sparse.saes.kinds import Kind

PLANTED = SyntheticFeatures(width=16, features=32, active=3)
ALL = [TopK(), BatchTopK(), ReLU(), Gated(), JumpReLU(), BatchTopK(nested=(8,))]


def learned(kind: Kind, training: Training, cut_after: int | None = None, **options) -> SAE | None:
    """Trains, or stops at the record after `cut_after` steps as a kill would."""
    course = iter_train_sae(PLANTED.sample(4_096)[0], 32, 3, training, kind=kind, seed=3, **options)
    while True:
        try:
            record = next(course)
        except StopIteration as end:
            return end.value
        if cut_after is not None and record["step"] >= cut_after:
            return None


@pytest.mark.parametrize("kind", ALL, ids=str)
def test_a_training_cut_off_goes_on_to_the_same_bytes(kind: Kind, tmp_path: Path) -> None:
    plan = Training(steps=60, batch=128, lr=5e-3, aux=AuxLoss(dead_after=512))
    whole = learned(kind, plan)
    kept = Training(steps=60, batch=128, lr=5e-3, aux=AuxLoss(dead_after=512), save=SaveState(tmp_path / "state", 7))
    assert learned(kind, kept, cut_after=31) is None
    resumed = learned(kind, kept)
    assert whole is not None and resumed is not None
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert resumed.trained_on.tokens == whole.trained_on.tokens == 60 * 128


def test_a_kept_state_of_another_training_is_refused_and_left_alone(tmp_path: Path) -> None:
    state = tmp_path / "state"
    learned(TopK(), Training(steps=20, batch=128, save=SaveState(state, 5)), cut_after=11)
    before = state.read_bytes()
    with pytest.raises(ClocheError, match="another lr"):
        learned(TopK(), Training(steps=20, batch=128, lr=0.1, save=SaveState(state)))
    with pytest.raises(ClocheError, match="another kind"):
        learned(ReLU(), Training(steps=20, batch=128, save=SaveState(state)))
    assert state.read_bytes() == before
    state.write_bytes(before[: len(before) // 2])
    with pytest.raises(ClocheError, match="not a saved training"):
        learned(TopK(), Training(steps=20, batch=128, save=SaveState(state)))


def test_a_training_does_not_go_on_with_other_signals(tmp_path: Path) -> None:
    plan = Training(steps=20, batch=128, save=SaveState(tmp_path / "state", 5))
    course = iter_train_sae(PLANTED.sample(4_096)[0], 32, 3, plan)
    while next(course)["step"] < 11:
        pass
    with pytest.raises(ClocheError, match="another first signals"):
        train_sae(PLANTED.sample(4_096, seed=2)[0], 32, 3, plan)


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        (Training, {"steps": 0}),
        (Training, {"lr": -1.0}),
        (Training, {"lr": float("nan")}),
        (AuxLoss, {"k": 0}),
        (SaveState, {"path": Path("state"), "every": 0}),
    ],
)
def test_a_training_of_nothing_is_refused(settings: type, options: dict) -> None:
    with pytest.raises(ClocheError, match=r"below 1|not a positive number"):
        settings(**options)


def test_a_row_of_zeros_does_not_become_nan() -> None:
    sae = SAE(16, 32, 3, ReLU())
    with torch.no_grad():
        sae.decoder[3], sae.encoder_bias[3] = 0.0, -100.0
    for _ in continue_training(sae, PLANTED.sample(2_048)[0], Training(steps=5, batch=256)):
        pass
    assert all(bool(tensor.isfinite().all()) for tensor in sae.state_dict().values())


def test_training_on_starts_where_the_first_ended() -> None:
    x = PLANTED.sample(8_192)[0]
    sae, history = train_sae(x, 32, 3, Training(steps=300, batch=256, lr=5e-3))
    scale, before = sae.scale.clone(), sae.report(x).fvu
    course = continue_training(sae, x, Training(steps=300, batch=256, lr=2e-3), seed=1)
    first = next(course)
    assert first["fvu"] == pytest.approx(history[-1]["fvu"], rel=0.3)
    assert sum(1 for _ in course) > 10 and sae.report(x).fvu < before
    assert torch.equal(sae.scale, scale) and sae.trained_on.tokens == 600 * 256


def test_a_loss_downstream_decides_what_is_kept() -> None:
    """Only eight of sixteen coordinates matter to what comes after: end to end, those are the ones that are explained."""
    x = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(0))
    matters = torch.arange(16) < 8

    def stream():
        for start in range(0, 20_000, 500):
            rows = x[start : start + 500]
            yield Batch(rows, lambda made, rows=rows: (made - rows)[:, matters].square().sum(1).mean())

    left = {}
    for name, activations in (("itself", x), ("downstream", stream())):
        sae, _ = train_sae(activations, 32, 6, Training(steps=40, batch=500, lr=2e-2, clip=100.0))
        error = (x - sae.explain(x)[2]).square().mean(0)
        left[name] = float(error[matters].mean() / error[~matters].mean())
    assert left["downstream"] < 0.7 * left["itself"]


def _one_of(rank: int, world: int, kinds: list[Kind], meet: str, out: str) -> None:
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=world)
    for kind in kinds:
        sae, history = train_sae(rows(), 32, 3, SHARED, kind=kind, wiring=Wiring((8,), (8,)), seed=3)
        if rank == 0:
            save_file(dict(sae.state_dict()), f"{out}-{kind}")
            Path(f"{out}-{kind}.json").write_text(json.dumps(history))
    if world > 1:
        dist.destroy_process_group()


SHARED = Training(steps=40, batch=256, lr=2e-3, aux=AuxLoss(dead_after=1_024))


def rows() -> Tensor:
    return PLANTED.sample(4_096)[0]


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    kinds = ALL[:5]
    _one_of(0, 1, kinds, "", str(tmp_path / "one"))
    mp.spawn(_one_of, (2, kinds, str(tmp_path / "meet"), str(tmp_path / "two")), nprocs=2)
    for name in map(str, kinds):
        one, two = (load_file(tmp_path / f"{count}-{name}") for count in ("one", "two"))
        assert one.keys() == two.keys()
        for part, tensor in one.items():
            assert torch.dist(tensor, two[part]) <= 1e-5 * tensor.norm(), f"{name} {part}"
        first, second = (json.loads((tmp_path / f"{count}-{name}.json").read_text()) for count in ("one", "two"))
        assert [record["signals"] for record in first] == [record["signals"] for record in second]
        assert second[-1]["fvu"] == pytest.approx(first[-1]["fvu"], rel=1e-4)


def test_a_batch_that_cannot_be_shared_evenly_is_refused() -> None:
    from cloche.ranks import Ranks

    ranks = Ranks()
    ranks.rank, ranks.world = 0, 3
    with pytest.raises(ClocheError, match="choose a multiple"):
        ranks.share(torch.zeros(256, 4))
