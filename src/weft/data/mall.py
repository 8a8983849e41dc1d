"""The demo mall: four small domains made by a formula, to try everything with no data at all.

**All of it is synthetic.** Nobody bought anything here; a result on the mall says that the code
works and how a method behaves under the assumptions below, and nothing about real shoppers.

The process, all of it drawn from `seed`:

1. *Items.* Each domain (home, outdoor, toys, kitchen) has five categories of its own with five
   products each. An item is a product with a brand, a theme, a style, a colour, a material that
   suits its category and a feature. Brands, themes, styles, colours and most materials exist in
   several domains (each brand and each theme is missing from one of the four); categories,
   products and features exist in one only. The title is made of one of four phrasings of these
   attributes, two of which leave the style out. Some values are commoner than others.
2. *Tastes.* There are twelve profiles, the same in all domains: a profile likes or dislikes each
   value of the shared attributes (so that, say, those who like one theme tend to like one
   brand). A user has one profile plus leanings of their own, and, for the domain only, a
   liking for some of its categories. Domains differ in which attributes matter: style and colour
   in home, brand and material in outdoor, theme in toys, a bit of all in kitchen. So what is
   learned in one domain can help in another, help little, or mislead.
3. *Sequences.* A user picks items one after the other, none twice, by a softmax over taste +
   popularity + likeness to the last pick (same theme or brand, the same category or the one that
   usually follows it). One pick in ten ignores all that but popularity.

Users differ from domain to domain but come from the same population of tastes. Kitchen has few
users: the domain that has just been opened.

The draws use uniform numbers of PCG64 and double precision only, so that one seed gives one mall
on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from weft.data.domain import Catalogue, Domain, Sequences
from weft.errors import SettingError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SHORTEST, LONGEST = 5, 15
PROFILES = 12
NEWCOMER = "kitchen"
START = 1_672_531_200  # 2023-01-01, Unix seconds
DAY = 86_400


def _words(text: str) -> list[str]:
    return text.split("|")


SHARED = {
    "brand": _words(
        "Harbor Lane|Copper Fox|Wild Meadow|Silver Birch|Bluebird|Stone Bridge|Maple Street|"
        "Golden Owl|Red Lantern|Quiet Valley|Little Acorn|Iron Gate|Morning Star|River Mill|"
        "Paper Crane|Black Bear|Sunny Hill|Velvet Moon|Cedar Point|Lucky Penguin"
    ),
    "theme": _words(
        "Nautical|Woodland|Celestial|Dinosaur|Floral|Tropical|Desert|Arctic|Racing|Musical|"
        "Cat|Honeybee"
    ),
    "style": _words("Minimalist|Rustic|Retro|Modern|Elegant|Playful|Industrial|Bohemian"),
    "colour": _words(
        "Navy Blue|Sage Green|Mustard Yellow|Charcoal Gray|Blush Pink|Ivory White|Burgundy Red|"
        "Teal|Lavender|Orange|Chocolate Brown|Black"
    ),
    "material": _words(
        "Cotton|Linen|Wool|Bamboo|Oak Wood|Ceramic|Glass|Stainless Steel|Brass|Leather|Canvas|"
        "Silicone|Recycled Plastic|Felt|Cast Iron|Nylon"
    ),
}

# domain -> (category, products, materials) in the order in which categories usually follow.
CATEGORIES = {
    "home": (
        ("Bedding", "Duvet Cover|Quilt|Pillowcase Pair|Throw Blanket|Bed Skirt", "Cotton|Linen|Wool|Bamboo"),
        ("Lighting", "Table Lamp|Floor Lamp|Pendant Light|Night Light|Wall Sconce", "Brass|Glass|Ceramic|Oak Wood"),
        ("Decor", "Wall Clock|Picture Frame|Flower Vase|Candle Holder|Bookends", "Oak Wood|Brass|Ceramic|Glass"),
        ("Bath", "Bath Towel Set|Shower Curtain|Bath Mat|Soap Dispenser|Bathrobe", "Cotton|Linen|Bamboo|Ceramic"),
        ("Storage", "Storage Basket|Bookshelf|Coat Rack|Laundry Hamper|Desk Organizer", "Bamboo|Felt|Canvas|Oak Wood"),
    ),
    "outdoor": (
        ("Camping", "Two Person Tent|Sleeping Bag|Camping Chair|Picnic Blanket|Hammock", "Canvas|Nylon|Cotton|Wool"),
        ("Cooking", "Camp Stove|Mess Kit|Water Bottle|Coffee Percolator|Cooler Box", "Stainless Steel|Cast Iron|Recycled Plastic|Silicone"),
        ("Hiking", "Hiking Backpack|Trekking Poles|Rain Jacket|Hip Pack|Gaiters", "Nylon|Canvas|Leather|Recycled Plastic"),
        ("Garden", "Planter Pot|Garden Trowel|Bird Feeder|Watering Can|Wind Chime", "Ceramic|Oak Wood|Brass|Recycled Plastic"),
        ("Cycling", "Bike Helmet|Handlebar Bag|Cycling Gloves|Saddle Cover|Bike Bell", "Leather|Nylon|Recycled Plastic|Brass"),
    ),
    "toys": (
        ("Building", "Building Blocks|Marble Run|Model Kit|Train Set|Magnetic Tiles", "Oak Wood|Recycled Plastic|Bamboo|Felt"),
        ("Plush", "Stuffed Animal|Hand Puppet|Baby Rattle|Rag Doll|Plush Pillow", "Cotton|Wool|Felt|Linen"),
        ("Games", "Board Game|Jigsaw Puzzle|Card Game|Memory Game|Dominoes", "Recycled Plastic|Oak Wood|Felt|Bamboo"),
        ("Crafts", "Painting Kit|Sewing Kit|Sticker Book|Modeling Clay Set|Bracelet Kit", "Felt|Cotton|Canvas|Silicone"),
        ("Pretend", "Dress Up Costume|Play Tent|Dollhouse|Doctor Kit|Toy Kitchen", "Cotton|Canvas|Oak Wood|Recycled Plastic"),
    ),
    "kitchen": (
        ("Cookware", "Frying Pan|Saucepan|Dutch Oven|Baking Sheet|Stock Pot", "Cast Iron|Stainless Steel|Ceramic|Glass"),
        ("Utensils", "Spatula Set|Mixing Spoon|Whisk|Chef Knife|Cutting Board", "Bamboo|Oak Wood|Silicone|Stainless Steel"),
        ("Tableware", "Dinner Plate Set|Soup Bowl|Salad Bowl|Serving Platter|Salt and Pepper Shakers", "Ceramic|Glass|Bamboo|Oak Wood"),
        ("Drinkware", "Coffee Mug|Tea Kettle|Water Pitcher|Teapot|Travel Tumbler", "Ceramic|Glass|Stainless Steel|Brass"),
        ("Linens", "Apron|Oven Mitt|Dish Towel Set|Table Runner|Lunch Bag", "Cotton|Linen|Canvas|Silicone"),
    ),
}  # fmt: skip

FEATURES = {
    "home": "Machine Washable|Handmade|Easy to Assemble|Space Saving|Hypoallergenic|Gift Boxed",
    "outdoor": "Waterproof|Lightweight|Foldable|Windproof|Heavy Duty|UV Resistant",
    "toys": "Ages 3 and Up|Ages 6 and Up|For Toddlers|For Two Players|Educational|Travel Size",
    "kitchen": "Dishwasher Safe|Nonstick|Microwave Safe|Extra Large|Heat Resistant|Set of Four",
}

# How much each shared attribute matters to a domain's users.
WEIGHTS = {
    "home": {"brand": 0.6, "theme": 0.6, "style": 1.3, "colour": 1.1, "material": 0.6},
    "outdoor": {"brand": 1.4, "theme": 0.6, "style": 0.4, "colour": 0.6, "material": 1.1},
    "toys": {"brand": 0.6, "theme": 1.7, "style": 0.5, "colour": 0.6, "material": 0.4},
    "kitchen": {"brand": 1.0, "theme": 1.0, "style": 0.7, "colour": 0.8, "material": 0.8},
}
CATEGORY_WEIGHT = 0.8
FOLLOWS = {"brand": 1.0, "theme": 1.4}  # likeness to the last pick
SAME_CATEGORY, NEXT_CATEGORY = 0.5, 1.6
WHIM = 0.1  # the share of picks that ignore taste

PHRASINGS = (
    "{brand} {style} {theme} {material} {product}, {colour}",
    "{brand} {theme} {product} in {colour} {material}, {style} Design",
    "{theme} {product} by {brand}, {colour} {material}, {feature}",
    "{brand} {colour} {material} {product}, {theme} Pattern, {feature}",
)


def mall(seed: int = 0, users: int = 1500, items: int = 500) -> dict[str, Domain]:
    """Four synthetic domains by name: home, outdoor, toys, kitchen.

    Each has `items` items of unique titles, with the columns title, brand and category, and
    `users` users with 5 to 15 interactions; kitchen, the newcomer, has 4 users for each 15 of the
    others. A domain depends on `seed` and its own sizes alone.

    Raises a `SettingError` for fewer than 30 or more than 5,000 items, or fewer than 4 users.

    >>> toys = mall(users=60, items=40)["toys"]
    >>> len(toys.sequences), len(toys.items)
    (60, 40)
    >>> toys.items.titles[0]
    'Bluebird Rustic Desert Oak Wood Dress Up Costume, Orange'
    >>> toys.sequences.of(0)  # item indices, oldest first
    array([25, 24, 31, 12,  0], dtype=int32)
    """
    if not 30 <= items <= 5_000:
        raise SettingError(f"the mall has between 30 and 5000 items a domain, not {items}")
    if users < 4:
        raise SettingError(f"the mall has at least 4 users a domain, not {users}")
    world = _generator(seed, 0)
    profiles = {name: _normal(world, (PROFILES, len(values))) for name, values in SHARED.items()}
    out = {}
    for number, name in enumerate(CATEGORIES):
        rng = _generator(seed, number + 1)
        population = max(1, users * 4 // 15) if name == NEWCOMER else users
        shelf = _stock(rng, name, number, items)
        affinity = _tastes(rng, name, shelf, profiles, population)
        sequences = _sequences(rng, name, shelf, affinity)
        out[name] = Domain(name, Catalogue(shelf.frame), sequences)
    return out


@dataclass(frozen=True, eq=False)
class _Shelf:
    frame: pl.DataFrame
    value: dict[str, Ints]  # shared attribute, or "category" -> [items] which of its values
    popularity: Floats  # [items] logits


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, stream])))


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Nearly standard normal: twelve uniforms less six, exact on every machine."""
    uniform: Floats = rng.random((12, *shape))
    total: Floats = uniform.sum(axis=0)
    return total - 6.0


def _pick(rng: np.random.Generator, weights: Floats, count: int) -> Ints:
    """[count] indices drawn with the given weights."""
    edges = np.cumsum(weights)
    drawn: Ints = np.searchsorted(edges, rng.random(count) * edges[-1], side="right")
    return np.minimum(drawn, len(weights) - 1)


def _stock(rng: np.random.Generator, name: str, number: int, items: int) -> _Shelf:
    """Draw attributes and titles until `items` titles differ."""
    categories = CATEGORIES[name]
    features = _words(FEATURES[name])
    drawn = items + items // 4 + 50
    value = {"category": _pick(rng, np.ones(len(categories)), drawn)}
    for attribute, values in SHARED.items():
        common = 0.5 + rng.random(len(values))
        if attribute == "brand":
            common[number::4] = 0.0
        elif attribute == "theme":
            common[(number + 2) % 4 :: 4] = 0.0
        value[attribute] = _pick(rng, common, drawn)
    material = _pick(rng, np.ones(4), drawn)
    product = _pick(rng, np.ones(5), drawn)
    feature = _pick(rng, np.ones(len(features)), drawn)
    phrasing = _pick(rng, np.ones(len(PHRASINGS)), drawn)
    popularity = 0.5 * _normal(rng, (drawn,))

    rows: list[int] = []
    titles: dict[str, None] = {}
    for row in range(drawn):
        _, products, materials = categories[value["category"][row]]
        words = {attribute: SHARED[attribute][value[attribute][row]] for attribute in SHARED}
        words["material"] = _words(materials)[material[row]]
        value["material"][row] = SHARED["material"].index(words["material"])
        title = PHRASINGS[phrasing[row]].format(
            product=_words(products)[product[row]], feature=features[feature[row]], **words
        )
        if title not in titles and len(rows) < items:
            titles[title] = None
            rows.append(row)
    value = {attribute: values[rows] for attribute, values in value.items()}
    frame = pl.DataFrame(
        {
            "item_id": [f"{name}-{row:05d}" for row in range(items)],
            "title": list(titles),
            "brand": [SHARED["brand"][brand] for brand in value["brand"]],
            "category": [categories[category][0] for category in value["category"]],
        }
    )
    return _Shelf(frame, value, popularity[rows])


def _tastes(
    rng: np.random.Generator,
    name: str,
    shelf: _Shelf,
    profiles: dict[str, Floats],
    users: int,
) -> Floats:
    """[users, items] how much each user likes each item, as a logit without popularity."""
    profile = _pick(rng, np.ones(PROFILES), users)
    liking = _normal(rng, (users, len(CATEGORIES[name])))
    affinity = CATEGORY_WEIGHT * liking[:, shelf.value["category"]]
    for attribute, likes in profiles.items():
        tastes = likes[profile] + 0.7 * _normal(rng, (users, likes.shape[1]))
        affinity += WEIGHTS[name][attribute] * tastes[:, shelf.value[attribute]]
    return affinity


def _sequences(rng: np.random.Generator, name: str, shelf: _Shelf, affinity: Floats) -> Sequences:
    users = len(affinity)
    category = shelf.value["category"]
    step = (category[None, :] - category[:, None]) % len(CATEGORIES[name])
    follows = np.where(step == 0, SAME_CATEGORY, np.where(step == 1, NEXT_CATEGORY, 0.0))
    for attribute, weight in FOLLOWS.items():
        value = shelf.value[attribute]
        follows += weight * (value[None, :] == value[:, None])

    likeness = np.exp(follows)  # [last item, item]
    popular = np.exp(shelf.popularity)
    liked = np.exp(affinity) * popular  # [users, items]; 0 once picked
    free = np.broadcast_to(popular, liked.shape).copy()
    length = SHORTEST + (rng.random(users) ** 2 * (LONGEST - SHORTEST + 1)).astype(np.int64)
    picks = np.zeros((users, LONGEST), dtype=np.int32)
    everyone = np.arange(users)
    for position in range(LONGEST):
        going = everyone[length > position]
        weights = liked[going]
        if position:
            weights *= likeness[picks[going, position - 1]]
        whim = rng.random(users)[going] < WHIM
        weights[whim] = free[going[whim]]
        edges = np.cumsum(weights, axis=1)
        mark = rng.random(users)[going] * edges[:, -1]
        pick = (edges <= mark[:, None]).sum(axis=1)
        picks[going, position] = pick
        liked[going, pick] = free[going, pick] = 0.0

    first = (rng.random(users) * 540 * DAY).astype(np.int64)
    gaps = 3600 + (rng.random((users, LONGEST)) ** 2 * 40 * DAY).astype(np.int64)
    time = START + first[:, None] + np.cumsum(gaps, axis=1)
    there = np.arange(LONGEST) < length[:, None]
    return Sequences(
        user_ids=pl.Series("user_id", [f"{name}-{user:05d}" for user in range(users)]),
        offsets=np.concatenate([[0], np.cumsum(length)]).astype(np.int64),
        item=picks[there],
        time=time[there],
    )
