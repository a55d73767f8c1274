"""Objectives, schedules and optimisers of one's own that misbehave are refused before anything is trained or saved."""

from dataclasses import dataclass

import pytest
import torch

from cloche.cli.errors import sentence_and_status
from cloche.data import PackedTokens, prepare
from cloche.errors import ClocheError
from cloche.model import GLU, LM, Attention, Block, Full, Stack
from cloche.text import Tokenizer
from cloche.train import (
    L1,
    WSD,
    AdamW,
    Average,
    MaskedDiffusion,
    NextToken,
    Objective,
    Optimizer,
    Penalised,
    PhysicsResidual,
    Schedule,
    SpanCorruption,
    SquaredError,
    Stepper,
    Term,
    TokenBatch,
    evaluate,
)
from cloche.train.optimizers.schedule import check_schedule
from cloche.train.recipe.limits import check_fits
from cloche.train.recipe.recipe import Recipe
from cloche.train.trial import try_objective

BATCH = TokenBatch(torch.randint(20, (2, 9), generator=torch.Generator().manual_seed(0)))


def network():
    return LM(20, 16, Stack(1, Block(Attention(2), GLU(hidden=8)))).build(0)


@dataclass(frozen=True)
class Odd(Objective):
    """Terms that `how` spoils."""

    how: str = ""

    def terms(self, net, batch):
        nats, count = Objective.nats(self, net, batch)
        mean = nats / count
        return {
            "none": {},
            "three": 3,
            "bare": {"loss": mean},
            "vector": {"loss": Term(mean[None])},
            "float": {"loss": Term(3.0)},
            "constant": {"loss": Term(torch.tensor(3.0))},
            "step": {"loss": Term(mean), "step": Term(mean)},
            "rate": {"loss": Term(mean), "lr_matrix": Term(mean)},
        }.get(self.how, {"loss": Term(mean)})

    def nats(self, net, batch):
        return 3 if self.how == "nats" else super().nats(net, batch)

    def weight(self, batch):
        return float("nan") if self.how == "weight" else super().weight(batch)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("none", r'returns no terms; one of its terms must be called "loss"'),
        ("three", "must return its terms by their names, not 3"),
        ("bare", r"returns a tensor of shape \[\] as 'loss'; it must be Term"),
        ("vector", r"a tensor of shape \[1\] as 'loss'"),
        ("float", "returns 3.0 as 'loss'"),
        ("constant", "carry no gradient"),
        ("step", "a term 'step', a name that the log uses"),
        ("rate", "a term 'lr_matrix', a name that the log uses"),
        ("nats", "two scalars from `nats`"),
        ("weight", "the weight nan"),
    ],
)
def test_an_objective_that_training_cannot_use_is_one_sentence(how, says):
    with pytest.raises(ClocheError, match=says):
        try_objective(Odd(how), network(), BATCH)


@pytest.mark.parametrize("objective", [Odd(), NextToken(), Penalised(penalties=(L1(),))])
def test_a_trial_leaves_everything_as_it_was(objective):
    net = network()
    before, state = {name: value.clone() for name, value in net.state_dict().items()}, torch.get_rng_state()
    try_objective(objective, net, BATCH)
    assert torch.equal(torch.get_rng_state(), state) and all(p.grad is None for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@dataclass(frozen=True)
class OddRates(Schedule):
    last: float = 1.0
    some: int = 1

    def after(self, step, rising, steps):
        return self.last if step > steps // 2 else 1.0

    def batches(self, step, steps):
        return self.some


def test_a_schedule_that_no_update_can_follow_is_one_sentence():
    check_schedule(OddRates(last=0.0), 100_000)
    check_schedule(WSD(accumulate=4, ramp=0.5), 1)
    for rate in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ClocheError, match=r"OddRates has the rate .* of 50; it must be a finite number"):
            check_schedule(OddRates(last=rate), 50)
        with pytest.raises(ClocheError, match="OddRates has the rate"):
            check_fits(Recipe().with_set({"run.steps": 100_000}).model_copy(update={"schedule": OddRates(last=rate)}))
    with pytest.raises(ClocheError, match="makes update 0 of 0 batches"):
        check_schedule(OddRates(some=0), 50)


@dataclass(frozen=True)
class BuildsNothing(Optimizer):
    def build(self, net, dtype=torch.float32):
        return None


def test_what_is_built_must_be_optimisers():
    with pytest.raises(ClocheError, match=r"BuildsNothing\.build must return a list of torch optimisers, not None"):
        Stepper(network(), BuildsNothing())


@pytest.mark.parametrize(
    ("objective", "says"),
    [
        (SquaredError(), "SquaredError compares numbers, and a language model predicts tokens"),
        (Penalised(penalties=(PhysicsResidual(),)), "functions of time, and a language model reads tokens"),
    ],
)
def test_what_is_for_other_modules_is_refused_before_anything_is_read(objective, says):
    with pytest.raises(ClocheError, match=says):
        check_fits(Recipe().model_copy(update={"objective": objective}))


def test_penalties_name_a_group_once_and_draws_have_a_limit():
    with pytest.raises(ClocheError, match="names a group twice"):
        L1(groups=("matrix", "matrix"))
    with pytest.raises(ClocheError, match=r"draws=1000000000\) must lie between 1 and 4096"):
        MaskedDiffusion(draws=10**9)


@dataclass(frozen=True)
class Shares(Average):
    first: float = 1.0

    def share(self, update):
        return self.first


def test_an_average_moves_by_shares():
    for share in (float("nan"), 1.5, -0.1):
        with pytest.raises(
            ClocheError, match=r"Shares\(first=.*\) moves by .* at update 1; `share` must be from 0 to 1"
        ):
            Stepper(network(), AdamW(average=Shares(share)))


def test_ids_beyond_the_vocabulary_and_losses_that_are_no_numbers_are_refused():
    with pytest.raises(ClocheError, match="holds the ids 0 to 20, and the model has 20 tokens"):
        try_objective(NextToken(), network(), TokenBatch(torch.arange(21)[None]))
    net = network()
    with torch.no_grad():
        net.embed.weight.fill_(float("inf"))
    with pytest.raises(ClocheError, match="The term 'loss' of NextToken is nan before the first update"):
        try_objective(NextToken(), net, BATCH)


def test_none_unsets_a_setting_that_may_be_unset():
    recipe = Recipe().with_set({"optimizer.average": "EMA(decay=0.9)", "data.glob": "*.md"})
    assert recipe.optimizer.average is not None
    assert recipe.with_set({"optimizer.average": "None", "data.glob": "None", "rows.curriculum": "None"}) == Recipe()


def test_validation_in_which_nothing_is_predicted_is_one_sentence(tmp_path):
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 400)
    prepare([tmp_path / "text.txt"], tmp_path / "packed", vocab=270)
    tokens, lengths = (
        PackedTokens.open(tmp_path / "packed", "validation"),
        Tokenizer.load(tmp_path / "packed").byte_lengths,
    )
    block = Block(Attention(2, mask=Full()), GLU(hidden=8))
    rare = SpanCorruption(rate=1e-9, mask=269)
    with pytest.raises(ClocheError, match=r"predicts nothing in the .* tokens of validation"):
        evaluate(LM(270, 16, Stack(1, block)).build(0), tokens, lengths, 16, objective=rare)
    (tmp_path / "packed" / "data.json").write_text("{}")
    with pytest.raises(ClocheError, match=r"data\.json does not list packed text"):
        PackedTokens.open(tmp_path / "packed", "train")


def test_an_error_in_a_module_of_the_users_names_it(tmp_path):
    source = "def boo():\n    raise KeyError('boo')\n"
    (tmp_path / "mine.py").write_text(source)
    spaces = {}
    exec(compile(source, str(tmp_path / "mine.py"), "exec"), spaces)

    @dataclass(frozen=True)
    class Raises(Objective):
        def terms(self, net, batch):
            spaces["boo"]()

    with pytest.raises(KeyError) as caught:
        try_objective(Raises(), network(), BATCH)
    assert sentence_and_status(caught.value)[0].startswith("mine.py line 2 raised an error (KeyError: 'boo'): correct")
