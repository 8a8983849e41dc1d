"""What every method's settings share, and how one method can hold another."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from pydantic import BeforeValidator, ConfigDict
from torch import Tensor

from weft.errors import SettingError
from weft.merging.engine.method import OPTIONS, Block, Known, Method, Pass
from weft.settings import StrictModel

if TYPE_CHECKING:
    from weft.adapters.factors import Factors
    from weft.merging.lora.lowrank import Truncated
    from weft.merging.mergekit.forms import MergekitForm


class MergeMethod(StrictModel):
    """A merging method with its options: all that weft knows of it is in its class.

    A method is a frozen pydantic model. Its fields are its options, with ranges and descriptions
    that `weft methods` prints; the first line of its docstring is its summary. Only `name`,
    `source` and `combine` must be there. `weft.merging.methods.registry` has it by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]
    source: ClassVar[str]  # the paper
    needs_base: ClassVar[bool] = False  # means nothing for checkpoints without a base
    relative: ClassVar[bool] = False  # merges task vectors, else the weights themselves
    rows: ClassVar[bool] = False  # needs whole rows in a block
    symmetric: ClassVar[bool] = True  # the order in which parts are named has no meaning
    adapters_only: ClassVar[bool] = False
    checkpoints_only: ClassVar[bool] = False  # needs the weights themselves, not differences
    merges_factors: ClassVar[bool] = True  # also A and B each by itself (space: factors)
    is_sum: ClassVar[bool] = False  # Σ w_k τ_k with the weights that `sum_weights` gives
    takes: ClassVar[Literal["1+", "2+", "1", "2"]] = "1+"
    options_by_part: ClassVar[tuple[str, ...]] = ()  # those that a part may have its own value for

    @property
    def by_part(self) -> Sequence[str]:
        """Options that a part may have a value of its own for, tensor by tensor."""
        return self.options_by_part

    @property
    def keeps_parts(self) -> bool:
        """Whether θ = θ_base + Σ w_k v_k, with v_k that depend on no weight: then weights can be
        learned (`weft.learning`)."""
        return False

    @property
    def skips_zero(self) -> bool:
        """Whether a part of weight 0 changes nothing: then it isn't read."""
        return True

    @property
    def without_rank(self) -> MergeMethod:
        """What merges the tensors of adapters that are no product of factors."""
        return self

    @classmethod
    def mergekit_forms(cls) -> Mapping[str, MergekitForm]:
        """mergekit's `merge_method` -> how to read such a file as this method."""
        return {}

    def check(self, parts: int) -> None:
        """A `SettingError` when this many parts can't be merged."""
        if parts < int(self.takes[0]) or (len(self.takes) == 1 and parts != int(self.takes)):
            wanted = {
                "1+": "at least 1 part",
                "2+": "at least 2 parts",
                "1": "1 part into its base",
                "2": "2 parts",
            }
            raise SettingError(f"method '{self.name}' merges {wanted[self.takes]}, not {parts}")

    def default_weights(self, parts: int) -> list[float]:
        """What each part gets when the caller names no weights."""
        return [1.0] * parts

    def sum_weights(self, weights: Sequence[float]) -> list[float]:
        """Of a method that `is_sum`: what multiplies each task vector."""
        return list(weights)

    def passes(self) -> Sequence[Pass]:
        """What must be measured, in order."""
        return ()

    @abstractmethod
    def combine(self, block: Block, known: Known) -> Tensor:
        """The merged elements [n] float32."""

    def merge_deltas(self, modules: ModuleMerge) -> Mapping[str, Truncated]:
        """Module -> its merged ΔW of adapters, as factors: a weighted sum stays one of factors,
        for any other method each ΔW is formed, a few rows at a time."""
        return modules.summed() if self.is_sum else modules.dense()


class ModuleMerge(Protocol):
    """The ways to merge adapters module by module, of which a method chooses one."""

    def summed(self) -> Mapping[str, Truncated]:
        """By stacking the factors, with the method's `sum_weights`."""
        ...

    def dense(self) -> Mapping[str, Truncated]:
        """By `combine`, on ΔW."""
        ...

    def by_factors(self, kernel: FactorKernel) -> Mapping[str, Truncated]:
        """By a function of one module's factors."""
        ...

    def in_bases(
        self, basis: Callable[[Mapping[str, Factors]], CommonBasis], method: Method
    ) -> Mapping[str, Truncated]:
        """By another method, on the parts turned into a basis that each module's parts share."""
        ...


class FactorKernel(Protocol):
    """Merges the factors of one module: K parts with K weights, and the rank asked for, if any."""

    def __call__(
        self, parts: Sequence[Factors], weights: Sequence[float], rank: int | None
    ) -> Factors: ...


class CommonBasis(Protocol):
    """A basis for all parts of one module: U [out, q], and the parts in it."""

    @property
    def left(self) -> Tensor:
        """U [out, q] float64."""
        ...

    @property
    def sizes(self) -> Tensor:
        """[q] float64: what multiplies the rows of the merged parts."""
        ...

    @property
    def turned(self) -> Mapping[str, Tensor]:
        """Label -> the part's B in the basis, [q, r_k] float32."""
        ...


def _inner(value: Any) -> MergeMethod:
    from weft.merging.methods.registry import make_method

    method = make_method(value)
    if not isinstance(method, MergeMethod):
        raise SettingError("then: must be a method of weft")
    if method.adapters_only or method.checkpoints_only or not method.symmetric:
        raise SettingError(f"then: method '{method.name}' can't follow another one")
    return method


Inner = Annotated[MergeMethod, BeforeValidator(_inner)]


class Wrapper(MergeMethod):
    """A method that thins out the task vectors, and leaves merging them to another one, `then`.

    The other method sees thinned task vectors on a base of zero, so that `linear` sums them.
    """

    needs_base: ClassVar[bool] = True
    relative: ClassVar[bool] = True
    rows: ClassVar[bool] = True  # the other method may need them

    then: Inner

    @property
    def by_part(self) -> Sequence[str]:
        return list(dict.fromkeys([*self.options_by_part, *self.then.by_part]))

    @property
    def keeps_parts(self) -> bool:
        return self.then.keeps_parts

    @property
    def skips_zero(self) -> bool:
        return self.then.skips_zero

    def check(self, parts: int) -> None:
        super().check(parts)
        self.then.check(parts)

    def default_weights(self, parts: int) -> list[float]:
        return self.then.default_weights(parts)

    def passes(self) -> Sequence[Pass]:
        return [*self.measures(), *(self._nested(one) for one in self.then.passes())]

    def combine(self, block: Block, known: Known) -> Tensor:
        return self.then.combine(self._thinned(block, known), self._within(known))

    def measures(self) -> Sequence[Pass]:
        """What `thin` must know."""
        return ()

    @abstractmethod
    def thin(self, block: Block, known: Known) -> Sequence[Tensor]:
        """K thinned task vectors [n] float32, possibly in the memory of the block's parts."""

    def _thinned(self, block: Block, known: Known) -> Block:
        return replace(block, parts=tuple(self.thin(block, known)), base=None)

    def _nested(self, one: Pass) -> Pass:
        look, settle, needed = one.look, one.settle, one.needed
        return replace(
            one,
            key=_PREFIX + one.key,
            look=lambda block, known: look(self._thinned(block, known), self._within(known)),
            settle=lambda total, known, n: settle(total, self._within(known), n),
            needed=lambda known: needed(self._within(known)),
        )

    def _within(self, known: Known) -> Known:
        """What the other method has measured, by the names that it gave, and the parts' own
        options that this one has not taken."""
        inner = {k.removeprefix(_PREFIX): v for k, v in known.items() if k.startswith(_PREFIX)}
        options = known.get(OPTIONS, {})
        left = {k: v for k, v in options.items() if k not in self.options_by_part}
        return inner | ({OPTIONS: left} if left else {})


_PREFIX = "then."
