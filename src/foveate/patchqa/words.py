"""The closed world of PatchQA: what a scene may hold, and every word a question or an answer may use."""

SHAPES = ("circle", "square", "triangle", "cross", "star", "diamond", "ring", "heart")
COLORS = {
    "red": (215, 35, 35),
    "green": (30, 160, 50),
    "blue": (40, 70, 215),
    "yellow": (235, 215, 40),
    "purple": (140, 45, 170),
    "orange": (240, 135, 25),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
}
SIZES = ("small", "large")
PHOTOS = ("brick", "grass", "gravel", "stars", "wood")
PATTERNS = ("stripes", "checker", "dots", "zigzag", "plain")
BACKGROUNDS = PHOTOS + PATTERNS
LETTERS = tuple("ABCDEFHKLMNPRTUVXYZ")  # no G, I, J, O, Q, S, W: at 11 pixels they look like others
CHARACTERS = LETTERS + tuple("23456789")
DIGITS = tuple("0123456789")
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "center", "right")
DIRECTIONS = ("left", "right", "above", "below")
ORDINALS = ("first", "second", "third")

GROUPS = {
    "fine": ("sign", "digit"),
    "local": ("color", "shape", "size", "place"),
    "relational": ("count", "exists", "side", "direction"),
    "global": ("background",),
}
KINDS = tuple(kind for kinds in GROUPS.values() for kind in kinds)
GROUP = {kind: group for group, kinds in GROUPS.items() for kind in kinds}

PUNCTUATION = ("?", ":", ",", ".")
GLUE = (
    *("user", "assistant", "what", "color", "is", "the", "shape", "of", "object", "objects", "in"),
    *("a", "an", "there", "how", "many", "are", "does", "sign", "say", "digit", "handwritten"),
    *("written", "background", "relative", "to", "where", "which", "size", "and", "or", "not"),
    *("yes", "no", "picture", "pictures", "image", "none", "same", "different", "both", "more"),
    *("less", "than", "number", "it"),
)


def vocabulary() -> tuple[str, ...]:
    """Every word of PatchQA once, in an order that never changes within a version."""
    words = (*PUNCTUATION, *DIGITS, *LETTERS, *GLUE, *SHAPES, *COLORS, *SIZES, *BACKGROUNDS)
    return tuple(dict.fromkeys((*words, *ROWS, *COLUMNS, *DIRECTIONS, *ORDINALS)))
