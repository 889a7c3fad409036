"""Check of a task before anything is trained: its model, its loss, and whether training repeats bit for bit.

Exactness rests on what a task does: models made alike under one seed, a state that holds all that training changes, a
loss that is a mean. A task that breaks one of these would train, and end in wrong claims or in a traceback much later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from hybridmu.core.augmentation_check import fault_of
from hybridmu.core.kernel.model import State, SubModel, fit_standardize, initial_model, state_of
from hybridmu.core.kernel.rows import Rows
from hybridmu.core.kernel.training import Recipe, batch_statistics, train_slice, trained
from hybridmu.core.tasks.augmentation import Augmented
from hybridmu.core.tasks.base import Task
from hybridmu.core.tasks.classification import judgement_of
from hybridmu.core.tasks.regression_tasks import fit_targets
from hybridmu.errors import ConfigError, DivergedError
from hybridmu.user_code import contained, told

# Rows that are looked at; half of them are of slice 1, so that there is a second one to go on with.
SAMPLE_ROWS = 16
_LEAST_ROWS = 4
# Losses of the same row given once and twice may differ by rounding.
_ROUNDING = 1e-3
# Kernels for one row and for several may round each product otherwise, to the three digits of bfloat16.
_ROUGHLY = 5e-2


@dataclass(frozen=True, eq=False)
class Trial:
    """What a task is tried on.

    Attributes:
        name: The task's, for messages.
        task: The task.
        outputs: How many outputs its network is asked for; one per class.
        standardize: Whether a scaler stands in front.
        recipe: Hyper-parameters of the system.
        rows: From `sample`.
    """

    name: str
    task: Task
    outputs: int
    standardize: bool
    recipe: Recipe
    rows: Rows

    @property
    def width(self) -> int:
        """Return how many numbers a sub-model answers with per row."""
        return judgement_of(self.task).width(self.outputs)

    @property
    def numbers(self) -> bool:
        """Return whether the task learns numbers instead of classes."""
        return judgement_of(self.task).kind == "regression"

    def fresh(self) -> SubModel:
        """Return an untrained sub-model."""
        with self.calling("model"):
            return initial_model(
                self.task,
                features=self.rows.x.shape[1],
                classes=self.outputs,
                standardize=self.standardize,
                seed=self.recipe.seed,
                shard=0,
            )

    @contextmanager
    def calling(self, what: str) -> Iterator[None]:
        """Run the user's code; what it raises becomes a sentence.

        Args:
            what: What of it runs.

        Yields:
            Nothing.

        Raises:
            ConfigError: It raised something.
        """
        try:
            with contained():
                yield
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"task {self.name} fails in its {what}", got=told(error)) from error

    def refuse(self, what: str, *, expected: str = "", got: str = "", remedy: str = "") -> None:
        """Refuse the task.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"task {self.name} {what}", expected=expected, got=got, remedy=remedy)


def _fit_scales(model: SubModel, rows: Rows) -> None:
    fit_standardize(model, rows)
    fit_targets(model, rows.y[: rows.upto(1)])


def sample(x: Tensor, y: Tensor) -> Rows:
    """Return rows to try a task on, in two slices.

    Args:
        x: float32 [n, features], n ≥ 1.
        y: int64 [n], or float32 [n] of targets; of several float32 [n, targets].
    """
    chosen = torch.from_numpy(
        np.resize(np.arange(min(len(y), SAMPLE_ROWS)), max(_LEAST_ROWS, min(len(y), SAMPLE_ROWS)))
    )
    ids = np.zeros((len(chosen), 16), np.uint8)
    ids[:, 7] = np.arange(len(chosen))
    slices = np.repeat(np.array([1, 2], np.int32), [len(chosen) // 2, len(chosen) - len(chosen) // 2])
    return Rows(x[chosen], y[chosen], slices, ids, np.zeros_like(ids), ids)


def check(trial: Trial, *, begins: bool = True) -> str:
    """Try a task: make models, ask them, and train a few steps again and again.

    Args:
        trial: The task and some rows. The global generators are left as they were.
        begins: Nothing was trained with it before: it must also be able to train on a single row, which is all that
            deletions may leave.

    Returns:
        A fingerprint of what training gave; another process must come to the same.

    Raises:
        ConfigError: The task can't be used; the message says what it does and what it should do.
    """
    _check_own_parameters(trial)
    _check_augmentation(trial)
    # A model's class may bring a `state_dict`, an `eval` and a `to` of its own.
    with torch.random.fork_rng(devices=[]), trial.calling("model"):
        first = trial.fresh()
        _check_tensors(trial, first)
        untrained = state_of(first)
        _check_same(trial, untrained, trial.fresh(), "makes two models that differ, with the same seed")
        _check_answers(trial, trial.fresh())
        _check_loss(trial, trial.fresh())
        _check_batches(trial, trial.fresh())
        one, two = _train(trial, first, 1), _train(trial, first, 2)
        _check_same(trial, untrained, trial.fresh(), "makes another model, with the same seed, once one was trained")
        again = trial.fresh()
        _train(trial, again, 1)
        _check_same(trial, one, again, "trains two models that differ, with the same seed")
        _check_state(trial, first, one, two)
        _check_rows_apart(trial, first)  # untrained, all answers may be 0
        if begins:
            _check_single(trial)
    return fingerprint(two)


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """Return a hash of a state's names and bits."""
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(state):
        found.update(f"{name}\0".encode() + _bits(state[name]))
    return found.hexdigest()


def _check_tensors(trial: Trial, model: SubModel) -> None:
    """Check that every tensor of a model can be kept."""
    named = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in named:
        if is_lazy(tensor):
            trial.refuse(f"has a tensor without a shape: {_user(name)}", remedy="give lazy layers their sizes")
        if tensor.device.type != "cpu":
            trial.refuse(
                f"puts its model on a device: {_user(name)}",
                expected="cpu; HybridMU moves it",
                got=str(tensor.device),
            )
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            trial.refuse(
                f"has a state that is no tensor: {_user(name)}", got=type(value).__name__, remedy="register a buffer"
            )
        try:
            kept = _kept({name: value})[name]
            same = _bits(kept) == _bits(value) and kept.dtype == value.dtype and kept.shape == value.shape
        except Exception as error:  # of torch and safetensors, for kinds of tensors that they can't copy or write
            trial.refuse(
                f"has a tensor that can't be saved: {_user(name)}",
                expected="a dense tensor",
                got=f"{value.dtype}, {value.layout}: {told(error)}",
            )
        if not same:
            trial.refuse(f"has a tensor that saving changes: {_user(name)}", got=f"{value.dtype}, {value.layout}")


def _check_own_parameters(trial: Trial) -> None:
    """Check that a task has nothing to learn itself."""
    if isinstance(trial.task, torch.nn.Module) and any(p.requires_grad for p in trial.task.parameters()):
        _refuse_untrained(trial)


def _check_augmentation(trial: Trial) -> None:
    """Check that a task changes every row by itself."""
    if isinstance(trial.task, Augmented):
        with torch.random.fork_rng(devices=[]), trial.calling("augment"):
            fault = fault_of(trial.task, trial.rows.x)
        if fault:
            trial.refuse(fault.what, expected=fault.expected, got=fault.got)


def _refuse_untrained(trial: Trial) -> None:
    trial.refuse(
        "has parameters of its own, which would never be trained",
        expected="parameters of the model alone",
        remedy="put what is learned into the module that `model` returns; what is fixed does not require gradients",
    )


def _check_answers(trial: Trial, model: SubModel) -> None:
    """Check what a model answers to one row and to several."""
    model.eval()
    _fit_scales(model, trial.rows)
    for rows in (2, 1, len(trial.rows)):
        with trial.calling(f"model, asked about {rows} row(s)"), torch.no_grad():
            found = model(trial.rows.x[:rows].clone())
        expected = str([rows, trial.width])
        what = f"returns no {'values' if trial.numbers else 'logits'} for {rows} row(s)"
        if not isinstance(found, Tensor):
            trial.refuse(what, expected=f"a tensor {expected}", got=type(found).__name__)
        elif list(found.shape) != [rows, trial.width]:
            trial.refuse(
                f"returns {list(found.shape)} for {rows} row(s)",
                expected=expected,
                got=str(list(found.shape)),
                remedy="one logit per class and row (of numbers, what hybridmu.task.RegressionTask makes); keep the"
                " batch dimension of a single row",
            )
        elif not found.dtype.is_floating_point:
            trial.refuse(what, expected="floating point", got=str(found.dtype))
        elif trial.numbers and not found.isfinite().all():
            trial.refuse(what, expected="finite numbers, of an untrained model", got="others")
        elif not found.double().softmax(dim=1).isfinite().all():
            trial.refuse(
                what,
                expected="numbers, of an untrained model",
                got="NaN" if found.isnan().any() else "infinite ones, which no probabilities can be made of",
                remedy="a class that must not be answered may have -inf, but not every class of a row",
            )
    _check_rows_apart(trial, model)


def _check_rows_apart(trial: Trial, model: SubModel) -> None:
    """Check that a row is answered alike alone and beside others, whichever these are, in evaluation mode.

    Beside others the same kernels run on every row, so that little is left to rounding; alone other ones may run.
    """
    x = trial.rows.x
    model.eval()

    def answers(rows: Tensor) -> Tensor:
        torch.manual_seed(0)
        with trial.calling("model"), torch.no_grad():
            logits: Tensor = model(rows.clone())
        return logits.double()

    whole = answers(x)
    drawn = not torch.equal(torch.random.get_rng_state(), torch.Generator().manual_seed(0).get_state())
    if not bool(whole.softmax(dim=1).isfinite().all()):  # diverged on a handful of rows
        return
    if _bits(answers(x)) != _bits(whole):
        return  # it draws, and not from torch's generator
    half = len(x) // 2
    others = x[:1].expand(len(x) - half, -1), x[-1:].expand(half, -1)
    beside = torch.cat([
        answers(torch.cat([x[:half], others[0]]))[:half],
        answers(torch.cat([others[1], x[half:]]))[half:],
    ])
    asked = [(beside, _ROUNDING)]
    if not drawn:  # as dropout that goes on in evaluation mode: a row alone gets the numbers of the first one
        asked.append((torch.cat([answers(x[row : row + 1]) for row in range(len(x))]), _ROUGHLY))
    for found, rounding in asked:
        if not _close(whole, found, rounding):
            trial.refuse(
                "answers a row otherwise beside other rows",
                expected="the same logits for a row, whichever rows are asked with it, in evaluation mode",
                remedy="nothing of a batch may come into a row's answer: no mean over rows, no count of them",
            )


def _close(one: Tensor, two: Tensor, rounding: float) -> bool:
    """Return whether two tensors differ by rounding alone, as shares of the largest number in them."""
    largest = torch.where(one.isfinite(), one, 0.0).abs().max()
    return bool(((one == two) | ((one - two).abs() <= rounding * largest)).all())


def _check_loss(trial: Trial, model: SubModel) -> None:
    """Check that a loss is one number that depends on the model, and a mean over rows."""
    x, y = trial.rows.x, trial.rows.y
    _fit_scales(model, trial.rows)
    with trial.calling("model or loss, in training mode"):
        loss = trial.task.loss(model.train()(x), y)
    _check_number(trial, loss, len(y))
    _check_depends(trial, model, loss)
    if not loss.isfinite() and not _ever_finite(trial, model):
        trial.refuse(
            "has a loss that is never finite",
            expected="a number, of an untrained model, for some row and class",
            got=f"{loss.item()} for every one",
            remedy="look at the loss, and at the range of the features (data.scale, data.standardize)",
        )
    if trained(model) and not loss.requires_grad:
        trial.refuse(
            "has a loss that can't be differentiated",
            expected="a loss that depends on the model's parameters",
            remedy="no .detach(), .item() or numpy between model and loss; some parameter must be trained",
        )
    with trial.calling("loss"), torch.no_grad():
        logits = model.eval()(x)
        for row in range(len(y)):
            single, label = logits[row : row + 1], y[row : row + 1]
            once, twice = (trial.task.loss(torch.cat([single] * n), torch.cat([label] * n)) for n in (1, 2))
            _check_number(trial, once, 1)
            # A loss that is not finite for a row (a class without weight) is that row's affair.
            if abs(float(twice) - float(once)) > _ROUNDING * max(1.0, abs(float(once))):
                trial.refuse(
                    "has a loss that is no mean over rows",
                    expected=f"{float(once):.6g} for a row given twice, as for the row given once",
                    got=f"{float(twice):.6g}",
                    remedy="reduction='mean'",
                )


def _check_depends(trial: Trial, model: SubModel, loss: Tensor) -> None:
    """Check that nothing but the model's parameters would have to be trained for a loss."""
    ours = {tensor.data_ptr() for tensor in model.parameters()}
    seen, ahead = set(), [loss.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and leaf.data_ptr() not in ours:
            _refuse_untrained(trial)
        ahead += [following for following, _ in node.next_functions]


def _ever_finite(trial: Trial, model: SubModel) -> bool:
    """Return whether the loss is a number for some row in training mode, with its own class or with another one."""
    x, y = trial.rows.x, trial.rows.y
    # Twice each: layers that normalise over batches take no single row.
    asked = [(x[row : row + 1], y[row : row + 1]) for row in range(len(y))]
    asked += [] if trial.numbers else [(x[:1], torch.tensor([label])) for label in range(trial.outputs)]
    with trial.calling("model or loss, in training mode"), torch.no_grad():
        return any(
            bool(torch.isfinite(trial.task.loss(model.train()(row.repeat(2, 1)), torch.cat([label, label]))))
            for row, label in asked
        )


def _check_number(trial: Trial, loss: object, rows: int) -> None:
    shape = f"{loss.dtype} {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.dtype.is_floating_point:
        trial.refuse(
            f"has a loss that is not one number for {rows} row(s)",
            expected="a floating-point tensor []: the mean over the batch",
            got=shape,
        )


def _train(trial: Trial, model: SubModel, slice_: int, rows: Rows | None = None) -> State:
    """Return what training a slice gives; diverging on a handful of rows says nothing of all."""
    recipe = replace(
        trial.recipe,
        epochs=(1, 1),
        batch_size=min(trial.recipe.batch_size, _LEAST_ROWS),
        initial_slices=None,
        compiled=False,
    )
    rows = rows or trial.rows
    if slice_ == 1:
        fit_targets(model, rows.y[: rows.upto(1)])
    with trial.calling("training"), suppress(DivergedError):
        train_slice(model, rows, slice_, recipe, trial.task, 0)
    return state_of(model)


def _check_same(trial: Trial, expected: State, model: SubModel, what: str) -> None:
    found = state_of(model)
    if differing := _differing(expected, found):
        trial.refuse(
            what,
            expected="the same bits",
            got=f"other bits in {_list(differing)}",
            remedy="return a new module each time, and draw random numbers from torch's generator alone, not from "
            "numpy, random, os or time",
        )


def _check_state(trial: Trial, model: SubModel, one: State, two: State) -> None:
    """Check that a model loaded from a checkpoint goes on, and answers, as the one that was saved."""
    hidden = sorted({name for name, _ in model.named_buffers()} - set(model.state_dict()))
    remedy = "register what training changes as a buffer" + (
        f"; these are not persistent: {_list(hidden)}" if hidden else ""
    )
    loaded = _loaded(trial, one)
    if differing := _differing(two, _train(trial, loaded, 2)):
        trial.refuse(
            "goes on from a checkpoint otherwise than without a break: its state_dict does not hold all",
            expected="the same bits",
            got=f"other bits in {_list(differing)}",
            remedy=remedy,
        )
    answers = []
    for each in (model, _loaded(trial, two)):
        torch.manual_seed(0)
        with trial.calling("model"), torch.no_grad():
            answers.append(each.eval()(trial.rows.x))
    if _bits(answers[0]) != _bits(answers[1]):
        trial.refuse(
            "answers otherwise once its model is loaded: its state_dict does not hold all",
            expected="the same bits",
            remedy=remedy,
        )


def _check_batches(trial: Trial, model: SubModel) -> None:
    """Check that layers which normalise over batches are given some."""
    if trial.recipe.batch_size == 1 and (layers := batch_statistics(model, trial.rows.x[:1])):
        trial.refuse(
            f"normalises over batches, and sisa.batch_size is 1: layer {_user(layers[0])}",
            remedy="a larger batch, or GroupNorm or LayerNorm",
        )


def _check_single(trial: Trial) -> None:
    """Check that a model can be trained on a single row."""
    try:
        _train(trial, trial.fresh(), 1, trial.rows.take(np.arange(1)))
    except ConfigError as error:
        trial.refuse(
            "can't be trained on a single row, which is all that deletions may leave",
            got=error.got,
            remedy="no statistics of a batch other than torch's batch normalisation; GroupNorm or LayerNorm need none",
        )


def _loaded(trial: Trial, state: State) -> SubModel:
    model = trial.fresh()
    try:
        model.load_state_dict(_kept(state))
    except Exception as error:  # torch names the tensors
        trial.refuse(
            "can't be loaded from a checkpoint",
            expected="buffers of one shape",
            got=told(error),
            remedy="see the names",
        )
    return model


def _kept(state: Mapping[str, Tensor]) -> State:
    """Return a state as a checkpoint gives it back."""
    copied = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
    return dict(safetensors.torch.load(safetensors.torch.save(copied)))


def _differing(expected: State, found: State) -> list[str]:
    names = {*expected, *found}
    return sorted(n for n in names if n not in expected or n not in found or _bits(expected[n]) != _bits(found[n]))


def _bits(tensor: Tensor) -> bytes:
    """Return dtype, shape and bytes of a dense tensor."""
    flat = tensor.detach().contiguous().reshape(-1)
    return f"{tensor.dtype}{list(tensor.shape)}".encode() + flat.view(torch.uint8).numpy().tobytes()


def _user(name: str) -> str:
    """Return a tensor's or layer's name in the user's module, which stands behind a number in ours."""
    return name.partition(".")[2] or name


def _list(names: list[str]) -> str:
    shown = ", ".join(map(_user, names[:3]))
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
