"""The words of the planted family: plain English, each in one place alone, so that no feature fires by accident.

A row of a table is what the two features of one kind and block are made of; what stands where is said above each table.
No word of one row is a member of a class or has an ending of another (tests/test_planted_family.py).
"""

from __future__ import annotations

BLOCKS = 10  # rows of each table

# a, b: words with a feature each; c: a word that only a label that is too broad would name
WORDS = (
    ("candle", "lantern", "torch"),
    ("bridge", "tunnel", "ferry"),
    ("castle", "palace", "fortress"),
    ("letter", "postcard", "telegram"),
    ("river", "canal", "brook"),
    ("mirror", "curtain", "carpet"),
    ("pocket", "wallet", "purse"),
    ("garden", "orchard", "meadow"),
    ("ticket", "voucher", "coupon"),
    ("planet", "comet", "asteroid"),
)
# two classes that lie near each other, how a word of each is shown, and the words
CLASSES = (
    ("names of birds", "DET {}", "falcon sparrow heron raven swallow pigeon",
     "names of fish", "DET {}", "salmon trout herring tuna carp mackerel"),
    ("names of trees", "DET {}", "oak birch maple willow cedar pine",
     "names of flowers", "DET {}", "rose tulip daisy lily orchid poppy"),
    ("names of colours", "DET {} PLACE", "red green blue yellow purple scarlet",
     "names of metals", "DET {} spoon", "iron bronze zinc nickel tin chromium"),
    ("names of fruits", "DET {}", "apple pear cherry plum mango peach",
     "names of vegetables", "DET {}", "carrot cabbage onion turnip spinach celery"),
    ("musical instruments", "DET {}", "violin flute trumpet cello harp piano",
     "names of sports", "DET {} match", "tennis rugby hockey golf polo badminton"),
    ("names of insects", "DET {}", "beetle wasp moth ant hornet mosquito",
     "farm animals", "DET {}", "sheep goat pig donkey cow horse"),
    ("garments", "DET {}", "coat shirt scarf glove jacket blouse",
     "tools", "DET {}", "hammer chisel spanner screwdriver mallet sickle"),
    ("parts of the body", "DET {}", "elbow knee shoulder ankle wrist thumb",
     "names of relatives", "DET {}", "uncle aunt cousin nephew niece grandmother"),
    ("names of months", "DET {} morning", "january february june july august october",
     "days of the week", "DET {} morning", "monday tuesday wednesday thursday friday saturday"),
    ("names of spices", "DET {}", "pepper cinnamon ginger nutmeg saffron paprika",
     "names of drinks", "DET {}", "coffee tea wine cider lemonade whisky"),
)  # fmt: skip
# two endings, how a word of each is shown, and the words
ENDINGS = (
    ("ness", "DET {}", "kindness darkness sadness weakness fitness illness",
     "less", "DET {} PERSON", "harmless careless endless useless homeless restless"),
    ("tion", "DET {}", "nation station motion fraction option auction",
     "sion", "DET {}", "vision mission passion tension version pension"),
    ("able", "DET {} PERSON", "capable enjoyable reliable suitable comfortable lovable",
     "ible", "DET {} PERSON", "visible terrible horrible flexible invisible sensible"),
    ("ment", "DET {}", "payment basement moment agreement shipment pavement",
     "ance", "DET {}", "balance distance entrance insurance romance guidance"),
    ("ful", "DET {} PERSON", "careful hopeful joyful graceful peaceful useful",
     "ous", "DET {} PERSON", "famous nervous curious serious generous jealous"),
    ("ship", "DET {}", "friendship hardship township ownership leadership worship",
     "hood", "DET {}", "childhood boyhood motherhood likelihood adulthood falsehood"),
)  # fmt: skip
# what the numbers are called, a lowest, a highest, how far apart those are that occur; then the same of the other feature
NUMBERS = (
    ("years", 1700, 1799, 1, 1800, 1899, 1),
    ("years", 1900, 1949, 1, 1950, 1999, 1),
    ("numbers", 200, 499, 5, 500, 799, 5),
    ("numbers", 3000, 5999, 50, 6000, 8999, 50),
)
# the word; what stands before it where one feature fires, and where the other one does
PHRASES = (
    ("light", "traffic", "search"),
    ("office", "post", "tax"),
    ("room", "engine", "guest"),
    ("stop", "bus", "coach"),
    ("paper", "tissue", "newspaper"),
    ("board", "chess", "notice"),
    ("water", "mineral", "tap"),
    ("machine", "sewing", "slot"),
    ("book", "library", "comic"),
    ("line", "railway", "chorus"),
)
# two words for the topic of one feature, two for that of the other
TOPICS = (
    ("ocean", "tide", "desert", "dune"),
    ("hospital", "nurse", "prison", "warden"),
    ("kitchen", "oven", "bathroom", "shower"),
    ("court", "jury", "senate", "minister"),
    ("theatre", "actor", "circus", "acrobat"),
    ("wedding", "bride", "funeral", "coffin"),
    ("airport", "runway", "harbour", "anchor"),
    ("bakery", "flour", "brewery", "barley"),
    ("glacier", "avalanche", "volcano", "lava"),
    ("chapel", "choir", "stadium", "referee"),
)
# the word; what must stand before it for one feature and for the other; what may come after it
ANDS = (
    ("bell", "night", "noon", "tower"),
    ("alarm", "smoke", "frost", "siren"),
    ("gate", "guard", "thief", "hinge"),
    ("clock", "dawn", "dusk", "attic"),
    ("boat", "fog", "storm", "lighthouse"),
    ("radio", "winter", "summer", "battery"),
    ("stove", "pot", "kettle", "chimney"),
    ("flag", "king", "queen", "balcony"),
    ("cart", "market", "fair", "barrel"),
    ("camera", "tourist", "journalist", "tripod"),
)
# a word for each feature; a second word for both, and what it must stand behind; a word that neither fires on
ORS = (
    ("sofa", "armchair", "cushion", "velvet", "stool"),
    ("novel", "poem", "page", "torn", "essay"),
    ("doctor", "dentist", "patient", "feverish", "pharmacist"),
    ("lawyer", "judge", "bailiff", "hostile", "clerk"),
    ("rocket", "satellite", "capsule", "empty", "telescope"),
    ("pencil", "crayon", "sketch", "charcoal", "notebook"),
    ("cake", "biscuit", "cream", "vanilla", "pudding"),
    ("hotel", "hostel", "lobby", "marble", "tavern"),
    ("wizard", "witch", "cauldron", "magic", "dragon"),
    ("diamond", "ruby", "necklace", "pearl", "emerald"),
)
# a word for each feature; behind what they are silent; behind what they are not
EXCEPTIONS = (
    ("bear", "wolf", "polar", "hungry"),
    ("glass", "bottle", "broken", "tinted"),
    ("road", "path", "gravel", "muddy"),
    ("island", "beach", "tropical", "rocky"),
    ("artist", "painter", "amateur", "retired"),
    ("film", "cartoon", "silent", "foreign"),
    ("army", "navy", "rebel", "imperial"),
    ("chair", "bench", "wooden", "plastic"),
    ("knife", "fork", "steel", "rusty"),
    ("pipe", "hose", "leaky", "frozen"),
)
# a word, early in a context for one feature and later for the other
PLACES = ("captain", "widow", "orphan", "pilgrim", "hermit", "beggar", "merchant", "sailor", "prophet", "shepherd")
# each stronger than the next
GRADES = (
    ("flood", "rain", "drizzle"),
    ("scream", "shout", "whisper"),
    ("mountain", "hill", "slope"),
    ("hurricane", "gale", "breeze"),
    ("feast", "dinner", "snack"),
    ("villa", "cottage", "shed"),
    ("war", "battle", "quarrel"),
    ("lake", "pond", "puddle"),
    ("sprint", "jog", "stroll"),
    ("blaze", "flame", "spark"),
)
# what no feature is about
SLOTS: dict[str, tuple[str, ...]] = {
    "DET": ("the", "the", "the", "one", "every", "this", "that", "our"),
    "ADJ": ("old", "new", "heavy", "quiet", "dusty", "small", "strange", "pretty"),
    "PERSON": ("teacher", "farmer", "singer", "baker", "pilot", "child", "student", "stranger"),
    "VERB": ("carried", "painted", "found", "sold", "moved", "kept", "watched", "mended", "counted", "hid"),
    "PLACE": ("shop", "village", "corner", "square", "field", "valley", "cellar", "hall"),
}
FRAMES = (  # in which whatever a feature is about is said
    "{} was near the PLACE",
    "the PERSON VERB {}",
    "they found {} in the PLACE",
    "{} stood in the PLACE",
    "today {} was ADJ",
)
FILLERS = (
    "the PERSON VERB it in the PLACE",
    "they waited near the PLACE",
    "it was ADJ again",
    "the PLACE was ADJ today",
    "one PERSON was here",
)
