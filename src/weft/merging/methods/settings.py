"""What every method's settings share, and how one method can hold another."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict
from torch import Tensor

from weft.errors import WeftError
from weft.merging.engine.method import OPTIONS, Block, Known, Pass
from weft.settings import StrictModel


class Settings(StrictModel):
    """A merging method with its options; implements `weft.merging.engine.method.Method`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]
    source: ClassVar[str]  # the paper
    needs_base: ClassVar[bool] = False
    relative: ClassVar[bool] = False
    rows: ClassVar[bool] = False
    symmetric: ClassVar[bool] = True
    adapters_only: ClassVar[bool] = False
    checkpoints_only: ClassVar[bool] = False  # needs the weights themselves, not differences
    takes: ClassVar[Literal["1+", "2+", "1", "2"]] = "1+"
    own_options: ClassVar[tuple[str, ...]] = ()  # those that a part may have its own value for

    @property
    def by_part(self) -> Sequence[str]:
        """Options that a part may have a value of its own for, tensor by tensor."""
        return self.own_options

    @property
    def keeps_parts(self) -> bool:
        """Whether θ = θ_base + Σ w_k v_k, with v_k that depend on no weight: then weights can be
        learned (`weft.merging.learning`)."""
        return False

    @property
    def skips_zero(self) -> bool:
        """Whether a part of weight 0 changes nothing: then it isn't read."""
        return True

    def check(self, parts: int) -> None:
        """A `WeftError` when this many parts can't be merged."""
        if parts < int(self.takes[0]) or (len(self.takes) == 1 and parts != int(self.takes)):
            wanted = {
                "1+": "at least 1 part",
                "2+": "at least 2 parts",
                "1": "1 part into its base",
                "2": "2 parts",
            }
            raise WeftError(f"method '{self.name}' merges {wanted[self.takes]}, not {parts}")

    def default_weights(self, parts: int) -> list[float]:
        """What each part gets when the caller names no weights."""
        return [1.0] * parts

    def passes(self) -> Sequence[Pass]:
        """What must be measured, in order."""
        return ()

    @abstractmethod
    def combine(self, block: Block, known: Known) -> Tensor:
        """The merged elements [n] float32."""


def _inner(given: Any) -> Settings:
    from weft.merging.methods.registry import make_method

    method = make_method(given)
    if not isinstance(method, Settings):
        raise WeftError("then: must be a method of weft")
    if method.adapters_only or method.checkpoints_only or not method.symmetric:
        raise WeftError(f"then: method '{method.name}' can't follow another one")
    return method


Inner = Annotated[Settings, BeforeValidator(_inner)]


class Wrapper(Settings):
    """A method that thins out the task vectors, and leaves merging them to another one, `then`.

    The other method sees thinned task vectors on a base of zero, so that `linear` sums them.
    """

    needs_base: ClassVar[bool] = True
    relative: ClassVar[bool] = True
    rows: ClassVar[bool] = True  # the other method may need them

    then: Inner

    @property
    def by_part(self) -> Sequence[str]:
        return list(dict.fromkeys([*self.own_options, *self.then.by_part]))

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
        found = {k.removeprefix(_PREFIX): v for k, v in known.items() if k.startswith(_PREFIX)}
        left = {k: v for k, v in known.get(OPTIONS, {}).items() if k not in self.own_options}
        return found | ({OPTIONS: left} if left else {})


_PREFIX = "then."
