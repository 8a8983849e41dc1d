"""What every method's settings share, and how one method can hold another."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict
from torch import Tensor

from weft.errors import WeftError
from weft.merging.method import Block, Known, Pass


class Settings(BaseModel):
    """A merging method with its options; implements `weft.merging.method.Method`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]
    source: ClassVar[str]  # the paper
    needs_base: ClassVar[bool] = False
    relative: ClassVar[bool] = False
    rows: ClassVar[bool] = False
    symmetric: ClassVar[bool] = True
    adapters_only: ClassVar[bool] = False
    takes: ClassVar[Literal["1+", "2+", "2"]] = "1+"

    @property
    def keeps_parts(self) -> bool:
        """Whether θ = θ_base + Σ w_k v_k, with v_k that depend on no weight: then weights can be
        learned (`weft.merging.learning`)."""
        return False

    def check(self, parts: int) -> None:
        """A `WeftError` when this many parts can't be merged."""
        if parts < int(self.takes[0]) or (self.takes == "2" and parts != 2):
            wanted = {"1+": "at least 1 part", "2+": "at least 2 parts", "2": "2 parts"}
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
    if method.adapters_only or not method.symmetric:
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
    def keeps_parts(self) -> bool:
        return self.then.keeps_parts

    def check(self, parts: int) -> None:
        super().check(parts)
        self.then.check(parts)

    def default_weights(self, parts: int) -> list[float]:
        return self.then.default_weights(parts)

    def passes(self) -> Sequence[Pass]:
        return [*self.measures(), *(self._nested(one) for one in self.then.passes())]

    def combine(self, block: Block, known: Known) -> Tensor:
        return self.then.combine(self._thinned(block, known), _within(known))

    def measures(self) -> Sequence[Pass]:
        """What `thin` must know."""
        return ()

    @abstractmethod
    def thin(self, block: Block, known: Known) -> Sequence[Tensor]:
        """K thinned task vectors [n] float32, possibly in the memory of the block's parts."""

    def _thinned(self, block: Block, known: Known) -> Block:
        return replace(block, parts=tuple(self.thin(block, known)), base=None)

    def _nested(self, one: Pass) -> Pass:
        look, settle = one.look, one.settle
        return replace(
            one,
            key=_PREFIX + one.key,
            look=lambda block, known: look(self._thinned(block, known), _within(known)),
            settle=lambda total, known, n: settle(total, _within(known), n),
        )


_PREFIX = "then."


def _within(known: Known) -> Known:
    """What the other method has measured, by the names that it gave."""
    return {k.removeprefix(_PREFIX): v for k, v in known.items() if k.startswith(_PREFIX)}
