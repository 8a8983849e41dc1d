"""weft: turn the logs of several domains into recommenders that help each other.

    import weft

    recommender = weft.load_recommender("runs/demo/recommenders/kitchen/weaverec")
    recommender.recommend([["first title", "second title"]], k=10)

Every public name is here, whatever its home in the package; docs/api.md has them in groups. A name
is loaded when it is first used, so that importing weft costs nothing.
"""

from typing import TYPE_CHECKING

from weft.lazy_names import lazy_names

__version__ = "0.1.0"

if TYPE_CHECKING:  # for type checkers and editors; a test holds it equal to the table below
    from weft.adapters import Adapter as Adapter
    from weft.adapters import Factors as Factors
    from weft.adapters import LoraSettings as LoraSettings
    from weft.adapters import load_adapter as load_adapter
    from weft.adapters import save_adapter as save_adapter
    from weft.backbones import Backbone as Backbone
    from weft.backbones import find_backbone as find_backbone
    from weft.backbones import load_backbone as load_backbone
    from weft.data.catalogue import load_catalogue as load_catalogue
    from weft.data.catalogue import save_catalogue as save_catalogue
    from weft.data.domain import Catalogue as Catalogue
    from weft.data.domain import Domain as Domain
    from weft.data.domain import Examples as Examples
    from weft.data.domain import Sequences as Sequences
    from weft.data.filters import Filters as Filters
    from weft.data.filters import apply_filters as apply_filters
    from weft.data.folder import load_domain as load_domain
    from weft.data.folder import save_domain as save_domain
    from weft.data.ingest import IngestReport as IngestReport
    from weft.data.ingest import ingest as ingest
    from weft.data.ingest import read_domain as read_domain
    from weft.data.inspect import inspect_domain as inspect_domain
    from weft.data.mall import mall as mall
    from weft.data.source import Source as Source
    from weft.data.splits import LeaveOneOut as LeaveOneOut
    from weft.data.splits import Split as Split
    from weft.data.splits import TimeSplit as TimeSplit
    from weft.data.splits import UserSplit as UserSplit
    from weft.data.splits import leave_one_out as leave_one_out
    from weft.data.splits import make_split as make_split
    from weft.data.splits import parse_split as parse_split
    from weft.data.splits import sample_train as sample_train
    from weft.data.splits import split_by_time as split_by_time
    from weft.data.splits import split_by_user as split_by_user
    from weft.data.splits import split_globally as split_globally
    from weft.errors import BusyError as BusyError
    from weft.errors import DataError as DataError
    from weft.errors import MismatchError as MismatchError
    from weft.errors import NotFoundError as NotFoundError
    from weft.errors import SettingError as SettingError
    from weft.errors import WeftError as WeftError
    from weft.errors import WeftNotice as WeftNotice
    from weft.errors import WriteError as WriteError
    from weft.evaluation.candidates import CandidateSettings as CandidateSettings
    from weft.evaluation.candidates import draw_candidates as draw_candidates
    from weft.evaluation.candidates import train_counts as train_counts
    from weft.evaluation.compare import Comparison as Comparison
    from weft.evaluation.compare import compare as compare
    from weft.evaluation.compare import compare_table as compare_table
    from weft.evaluation.compare import summarise_seeds as summarise_seeds
    from weft.evaluation.domains import compare_over_domains as compare_over_domains
    from weft.evaluation.domains import mean_over_domains as mean_over_domains
    from weft.evaluation.evaluate import evaluate as evaluate
    from weft.evaluation.metrics import hit as hit
    from weft.evaluation.metrics import mrr as mrr
    from weft.evaluation.metrics import ndcg as ndcg
    from weft.evaluation.protocol import EvaluationSettings as EvaluationSettings
    from weft.evaluation.protocol import Protocol as Protocol
    from weft.evaluation.ranks import TargetPlaces as TargetPlaces
    from weft.evaluation.ranks import target_places as target_places
    from weft.evaluation.result import Result as Result
    from weft.integration import Integrator as Integrator
    from weft.integration import integrator_settings as integrator_settings
    from weft.integration import make_integrator as make_integrator
    from weft.learning.collaborative import learn_collaborative as learn_collaborative
    from weft.learning.part_models import Reading as Reading
    from weft.learning.recipe import learn_recipe as learn_recipe
    from weft.learning.settings import CollaborativeSettings as CollaborativeSettings
    from weft.merging import merge_adapters as merge_adapters
    from weft.merging.algebra import mean as mean
    from weft.merging.algebra import weights as weights
    from weft.merging.comparing.folders import contrast as contrast
    from weft.merging.comparing.folders import describe_weights as describe_weights
    from weft.merging.folding.fold import fold as fold
    from weft.merging.limits import MergeLimits as MergeLimits
    from weft.merging.merge import merge as merge
    from weft.merging.merge import plan_merge as plan_merge
    from weft.merging.methods import ArceeFusion as ArceeFusion
    from weft.merging.methods import Breadcrumbs as Breadcrumbs
    from weft.merging.methods import Concat as Concat
    from weft.merging.methods import Dare as Dare
    from weft.merging.methods import Della as Della
    from weft.merging.methods import ExtSub as ExtSub
    from weft.merging.methods import Karcher as Karcher
    from weft.merging.methods import Knots as Knots
    from weft.merging.methods import Lego as Lego
    from weft.merging.methods import Linear as Linear
    from weft.merging.methods import LocalizeAndStitch as LocalizeAndStitch
    from weft.merging.methods import MagnitudePrune as MagnitudePrune
    from weft.merging.methods import ModelStock as ModelStock
    from weft.merging.methods import Multislerp as Multislerp
    from weft.merging.methods import Nearswap as Nearswap
    from weft.merging.methods import Nuslerp as Nuslerp
    from weft.merging.methods import Pcb as Pcb
    from weft.merging.methods import Ram as Ram
    from weft.merging.methods import Sce as Sce
    from weft.merging.methods import Slerp as Slerp
    from weft.merging.methods import TaskArithmetic as TaskArithmetic
    from weft.merging.methods import Ties as Ties
    from weft.merging.methods import describe_methods as describe_methods
    from weft.merging.methods import make_method as make_method
    from weft.merging.plan import MergePlan as MergePlan
    from weft.merging.plan import plan_recipe as plan_recipe
    from weft.merging.recipe import MergeRecipe as MergeRecipe
    from weft.merging.recipe_file import load_merge_recipe as load_merge_recipe
    from weft.pretraining.backbone import pretrain_backbone as pretrain_backbone
    from weft.pretraining.recipe import PretrainRecipe as PretrainRecipe
    from weft.pretraining.recipe import load_pretrain_recipe as load_pretrain_recipe
    from weft.recipes import PackagedRecipe as PackagedRecipe
    from weft.recipes import packaged_recipes as packaged_recipes
    from weft.recipes import recipe_file as recipe_file
    from weft.recommenders.asking import Answer as Answer
    from weft.recommenders.asking import LoadedRecommender as LoadedRecommender
    from weft.recommenders.asking import Suggestion as Suggestion
    from weft.recommenders.contract import BackboneRecommender as BackboneRecommender
    from weft.recommenders.contract import Recommender as Recommender
    from weft.recommenders.contract import RecommenderSettings as RecommenderSettings
    from weft.recommenders.equipped import EquippedBackbone as EquippedBackbone
    from weft.recommenders.equipped import FoldedBackbone as FoldedBackbone
    from weft.recommenders.equipped import LoraBackbone as LoraBackbone
    from weft.recommenders.equipped import PlainBackbone as PlainBackbone
    from weft.recommenders.equipped import WholeBackbone as WholeBackbone
    from weft.recommenders.integrated import IntegratedBackbone as IntegratedBackbone
    from weft.recommenders.kinds import make_recommender as make_recommender
    from weft.recommenders.kinds import new_recommender as new_recommender
    from weft.recommenders.kinds import recommender_settings as recommender_settings
    from weft.recommenders.kinds import register_recommender as register_recommender
    from weft.recommenders.ranking import Ranking as Ranking
    from weft.recommenders.saved import load_recommender as load_recommender
    from weft.recommenders.saved import open_recommender as open_recommender
    from weft.recommenders.saved import save_recommender as save_recommender
    from weft.recommenders.sequential.popularity import Popularity as Popularity
    from weft.recommenders.text.bi_encoder import BiEncoder as BiEncoder
    from weft.recommenders.text.bi_encoder import BiEncoderSettings as BiEncoderSettings
    from weft.recommenders.text.cross_encoder import CrossEncoder as CrossEncoder
    from weft.recommenders.text.cross_encoder import CrossEncoderSettings as CrossEncoderSettings
    from weft.recommenders.text.listwise import Listwise as Listwise
    from weft.recommenders.text.listwise import ListwiseSettings as ListwiseSettings
    from weft.recommenders.text.lm import PrefixTree as PrefixTree
    from weft.recommenders.text.yes_no import YesNo as YesNo
    from weft.recommenders.text.yes_no import YesNoSettings as YesNoSettings
    from weft.report.html import render_html as render_html
    from weft.report.markdown import render_markdown as render_markdown
    from weft.report.model import RunReport as RunReport
    from weft.report.terminal import render_terminal as render_terminal
    from weft.systems.registry import load_recipe as load_recipe
    from weft.systems.runner import dry_run as dry_run
    from weft.systems.runner import run as run
    from weft.text import Structure as Structure
    from weft.text import TextSettings as TextSettings
    from weft.text import assemble as assemble
    from weft.text import clean_text as clean_text
    from weft.text import item_texts as item_texts
    from weft.text import pad as pad
    from weft.text import tokenize_items as tokenize_items
    from weft.training import Trained as Trained
    from weft.training import TrainingFiles as TrainingFiles
    from weft.training import TrainSettings as TrainSettings
    from weft.training import train as train

# Module of the package -> the public names that live there.
_NAMES: dict[str, tuple[str, ...]] = {
    "errors": (
        "WeftError",
        "NotFoundError",
        "SettingError",
        "DataError",
        "MismatchError",
        "BusyError",
        "WriteError",
        "WeftNotice",
    ),
    "data.domain": ("Domain", "Catalogue", "Sequences", "Examples"),
    "data.source": ("Source",),
    "data.ingest": ("ingest", "read_domain", "IngestReport"),
    "data.folder": ("load_domain", "save_domain"),
    "data.catalogue": ("load_catalogue", "save_catalogue"),
    "data.inspect": ("inspect_domain",),
    "data.mall": ("mall",),
    "data.filters": ("Filters", "apply_filters"),
    "data.splits": (
        "Split",
        "LeaveOneOut",
        "UserSplit",
        "TimeSplit",
        "make_split",
        "parse_split",
        "leave_one_out",
        "split_by_user",
        "split_by_time",
        "split_globally",
        "sample_train",
    ),
    "text": (
        "TextSettings",
        "Structure",
        "clean_text",
        "item_texts",
        "tokenize_items",
        "assemble",
        "pad",
    ),
    "backbones": ("Backbone", "load_backbone", "find_backbone"),
    "adapters": ("Adapter", "Factors", "LoraSettings", "load_adapter", "save_adapter"),
    "recommenders.contract": ("Recommender", "BackboneRecommender", "RecommenderSettings"),
    "recommenders.ranking": ("Ranking",),
    "recommenders.equipped": (
        "EquippedBackbone",
        "PlainBackbone",
        "FoldedBackbone",
        "LoraBackbone",
        "WholeBackbone",
    ),
    "recommenders.kinds": (
        "make_recommender",
        "new_recommender",
        "recommender_settings",
        "register_recommender",
    ),
    "recommenders.text.bi_encoder": ("BiEncoder", "BiEncoderSettings"),
    "recommenders.text.cross_encoder": ("CrossEncoder", "CrossEncoderSettings"),
    "recommenders.text.listwise": ("Listwise", "ListwiseSettings"),
    "recommenders.text.yes_no": ("YesNo", "YesNoSettings"),
    "recommenders.sequential.popularity": ("Popularity",),
    "recommenders.integrated": ("IntegratedBackbone",),
    "recommenders.saved": ("load_recommender", "open_recommender", "save_recommender"),
    "recommenders.asking": ("LoadedRecommender", "Answer", "Suggestion"),
    "recommenders.text.lm": ("PrefixTree",),
    "integration": ("Integrator", "integrator_settings", "make_integrator"),
    "training": ("TrainSettings", "Trained", "train", "TrainingFiles"),
    "evaluation.protocol": ("EvaluationSettings", "Protocol"),
    "evaluation.candidates": ("CandidateSettings", "draw_candidates", "train_counts"),
    "evaluation.evaluate": ("evaluate",),
    "evaluation.result": ("Result",),
    "evaluation.compare": ("Comparison", "compare", "compare_table", "summarise_seeds"),
    "evaluation.domains": ("mean_over_domains", "compare_over_domains"),
    "evaluation.ranks": ("TargetPlaces", "target_places"),
    "evaluation.metrics": ("ndcg", "mrr", "hit"),
    "merging.merge": ("merge", "plan_merge"),
    "merging.recipe": ("MergeRecipe",),
    "merging.recipe_file": ("load_merge_recipe",),
    "merging.plan": ("MergePlan", "plan_recipe"),
    "merging.limits": ("MergeLimits",),
    "merging": ("merge_adapters",),
    "merging.algebra": ("weights", "mean"),
    "merging.folding.fold": ("fold",),
    "merging.comparing.folders": ("describe_weights", "contrast"),
    "merging.methods": (
        "ArceeFusion",
        "Breadcrumbs",
        "Concat",
        "Dare",
        "Della",
        "ExtSub",
        "Karcher",
        "Knots",
        "Lego",
        "Linear",
        "LocalizeAndStitch",
        "MagnitudePrune",
        "ModelStock",
        "Multislerp",
        "Nearswap",
        "Nuslerp",
        "Pcb",
        "Ram",
        "Sce",
        "Slerp",
        "TaskArithmetic",
        "Ties",
        "make_method",
        "describe_methods",
    ),
    "learning.collaborative": ("learn_collaborative",),
    "learning.recipe": ("learn_recipe",),
    "learning.part_models": ("Reading",),
    "learning.settings": ("CollaborativeSettings",),
    "pretraining.backbone": ("pretrain_backbone",),
    "pretraining.recipe": ("PretrainRecipe", "load_pretrain_recipe"),
    "recipes": ("PackagedRecipe", "packaged_recipes", "recipe_file"),
    "systems.registry": ("load_recipe",),
    "systems.runner": ("run", "dry_run"),
    "report.model": ("RunReport",),
    "report.html": ("render_html",),
    "report.markdown": ("render_markdown",),
    "report.terminal": ("render_terminal",),
}

__all__ = sorted(name for names in _NAMES.values() for name in names)

if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__, _NAMES)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
