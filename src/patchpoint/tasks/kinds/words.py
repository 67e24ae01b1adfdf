"""Ordinary words for prompts: first names from Faker's tables, nouns of our own."""

from collections.abc import Mapping
from functools import cache

MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)

_NOUNS = """
    Apple Arm Arrow Axe Ball Bank Barn Basket Bath Bed Bell Belt Bike Bird Boat Bone Book Boot Bottle Bowl Box
    Branch Bread Brick Bridge Brush Bus Bush Cake Camera Camp Candle Cap Car Card Cart Castle Cat Chain Chair Chest
    Church City Clock Cloud Coat Coin Corn Couch Cow Crown Cup Desk Dish Dog Doll Door Dress Drum Duck Egg Engine
    Face Farm Feather Fence Field Fire Fish Flag Flower Foot Fork Frame Frog Fruit Garden Gate Glass Glove Goat Gold
    Grass Gun Hair Hall Hammer Hand Hat Heart Hill Hook Horse House Ice Iron Island Jacket Jar Key King Kite Knife
    Lake Lamp Leaf Leg Letter Library Lion Lock Machine Map Mask Meal Milk Mirror Moon Mountain Mouse Mouth Nail
    Neck Needle Nest Net Nose Nut Oil Orange Oven Page Paint Pan Paper Park Path Pen Pencil Piano Picture Pie Pig
    Pipe Plane Plant Plate Pocket Pool Pot Prison Queen Rabbit Radio Rain Ring River Road Rock Roof Room Root Rope
    Rose Sail Salt Sand School Scissors Sea Seed Sheep Ship Shirt Shoe Shop Silver Skirt Snake Snow Soap Sock Spoon
    Spring Square Star Stick Stone Store Street Sugar Suit Sun Sword Table Tail Tank Tent Ticket Tiger Tooth Tower
    Town Toy Train Tree Truck Umbrella Valley Van Wall Watch Water Well Wheel Window Wing Wire Wolf Wood Yard
"""
NOUNS = tuple(_NOUNS.split())
"""Short names of things, capitalised, as they begin a sentence."""


@cache
def female_names() -> tuple[str, ...]:
    """First names of women in English-speaking countries that are rarely men's, the most common first."""
    female, male = _name_weights()
    return _common_first(female, without=male)


@cache
def male_names() -> tuple[str, ...]:
    """First names of men that are rarely women's, the most common first."""
    female, male = _name_weights()
    return _common_first(male, without=female)


@cache
def first_names() -> tuple[str, ...]:
    """All of both, and those of both, the most common first; no month's name is among them."""
    female, male = _name_weights()
    return _common_first({**male, **female})


def _name_weights() -> tuple[Mapping[str, float], Mapping[str, float]]:
    from faker.providers.person.en_US import Provider

    return dict(Provider.first_names_female), dict(Provider.first_names_male)


def _common_first(
    weights: Mapping[str, float], without: Mapping[str, float] | None = None
) -> tuple[str, ...]:
    left_out = {*(without or ()), *MONTHS}
    names = [name for name in weights if name not in left_out]
    return tuple(sorted(names, key=lambda name: (-weights[name], name)))
