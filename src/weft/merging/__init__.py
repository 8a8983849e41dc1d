"""Static merging: checkpoints and adapters into one, with no model loaded.

A merge is one flow: a `MergeRecipe` (`recipe`, `recipe_file`) is planned (`plan`), which opens and
checks everything, and the plan is run. `merge.merge` is all of it in one call.
"""

from typing import TYPE_CHECKING

from weft.lazy_names import lazy_names

if TYPE_CHECKING:
    from weft.merging.lora.merge import merge_adapters as merge_adapters
    from weft.merging.recipe import Space as Space
else:
    __getattr__ = lazy_names(__name__, {"lora.merge": ["merge_adapters"], "recipe": ["Space"]})
