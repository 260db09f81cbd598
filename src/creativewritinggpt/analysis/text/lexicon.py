"""The word lists of the story tagger: small, readable, and to be argued with.

English only, and short on purpose: a list that a person can read through can be corrected by one.
What it misses is measured in the tests of the tagger, not guessed.
"""

from __future__ import annotations

import functools
import re


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


FUNCTION_WORDS = _set("""
    a an the this that these those some any no every each all both either neither such same other
    another one two three i me my mine myself you your yours yourself he him his himself she her
    hers herself it its itself we us our ours ourselves they them their theirs themselves who whom
    whose which what where when why how there here am is are was were be been being have has had
    having do does did doing done will would shall should can could may might must ought and or but
    nor so yet for if then else than as because since while although though unless until whether of
    at by with about against between into through during before after above below to from up down
    in out on off over under again further once not only own too very just also even still already
    always never ever now much many more most few less least little enough rather quite almost
    perhaps maybe however therefore thus upon onto toward towards among amid within without across
    along around behind beside beyond near past per via like unlike except despite yes well oh ah
    nobody somebody anybody everybody nothing something anything everything someone anyone everyone
    don't didn't doesn't isn't wasn't aren't weren't won't wouldn't can't couldn't shouldn't hadn't
    hasn't haven't let's wp
    """)

# Before these a verb's form is a noun or an adjective: "a walk", "her broken cup".
DETERMINERS = _set(
    "a an the this that these those my your his her its our their no each every some any one "
    "another of"
)

# What a verb in a form that could be a noun follows: "he walks", "to walk", "and walk".
BEFORE_VERBS = _set(
    "i you he she it we they who that which to and or not would will could can should must may "
    "might shall do did does don't didn't doesn't won't can't couldn't wouldn't never always just "
    "let's then only i'll we'll you'll he'll she'll they'll i'd we'd you'd he'd she'd "
    "they'd nobody somebody everybody someone everyone"
)

TITLES = _set("""
    mr mrs ms miss mister missus dr doctor sir madam madame lady lord dame captain colonel major
    general sergeant lieutenant admiral commander king queen prince princess duke duchess count
    countess baron baroness emperor empress saint st father brother sister aunt uncle grandma
    grandpa grandmother grandfather professor inspector detective officer judge mayor president
    reverend master mistress
    """)

# Written with a capital, and yet nobody's name.
NOT_NAMES = _set("""
    i i'm i'd i'll i've monday tuesday wednesday thursday friday saturday sunday mondays sundays
    january february march april may june july august september october november december
    christmas easter halloween english french german spanish italian latin greek russian chinese
    japanese american british european african indian roman irish scottish welsh dutch belgian
    yesterday today tomorrow tonight meanwhile later soon sometimes everywhere somewhere nowhere
    anyway instead please thanks hello goodbye sorry welcome
    ok okay tv internet earthling gmt am pm wp
    """)

# Generic words for a place to be in; vehicles and furniture are left out.
PLACE_NOUNS = _set("""
    castle palace tower fortress dungeon abbey monastery temple church cathedral chapel vestry crypt
    tomb graveyard cemetery forest wood woods jungle meadow field orchard garden park farm barn
    stable village town city kingdom realm province border country harbour harbor port dock pier
    quay bank beach shore coast cliff island sea ocean river stream lake pond swamp marsh
    desert valley
    hill hillside mountain ridge canyon cave cavern mine tunnel road street lane alley avenue path
    trail highway bridge square market plaza station airport platform shop store bakery pub tavern
    inn hotel motel restaurant cafe café diner bar kitchen bedroom bathroom hallway corridor hall
    attic cellar basement staircase stairwell porch balcony courtyard yard room house home cottage
    cabin hut apartment flat mansion manor hospital clinic school classroom college university
    library museum theatre theater prison jail office factory warehouse workshop laboratory lab
    garage lighthouse windmill mill well gallery arena stadium court courthouse universe galaxy
    planet earth moon underworld heaven hell ballroom vault camp tent battlefield waterfall glade
    clearing crossroads shipyard pizzeria forecourt churchyard moor heath
    """)

# Prepositions that a named place follows: the first are rarely said of people.
PLACE_PREPOSITIONS = _set(
    "in into near across through outside inside around beyond throughout toward towards"
)
WEAK_PLACE_PREPOSITIONS = _set("to from at for of")

SPEECH_VERBS = _set("""
    said says say asked asks ask told tells tell replied replies answered answers added adds thought
    thinks knew knows wanted wants was is had has felt feels seemed seems looked loved loves hated
    would could did does will can never
    """)

# What a body can be seen or heard doing. To say, ask, tell, know and want are left out.
_REGULAR = """
    accept advance aim ambush approach arrest arrive attach attack bang bark bash bat beckon
    blink block board bolt bounce bow breathe brush bump burst bury button call capture caress
    carry carve charge chase chew chop circle clamber clap clasp claw clean clench climb
    clutch close collapse collect collide cook cough cover crack crash crawl creak creep cross
    crouch
    crumple crunch crush cry curl dab dance dart dash deliver descend destroy dip disappear
    dive dodge douse drag drain drape dress drift drip drop drum duck dump dust echo edge embrace
    empty enter erase escape examine exhale explode fasten fetch fill fire flap flare flash flee
    flick flinch flip float flood flop flutter fold follow frown gallop gasp gather gaze gesture
    giggle glance glare glide grab greet grimace grin grip groan growl grumble grunt
    guide gulp hail hammer hand handle hang harvest haul heave help hiss hobble hoist hop
    howl hug hum hunt hurl hurry inch inhale inject inspect invade jab jerk jog join jolt juggle
    jump kick kill kiss kneel knock land lash laugh launch lean leap lick lift limp load
    lock look loosen lower lunge lurch march melt moan mop mount move mumble murmur murder nail nod
    nudge open pace pack paddle paint pant park pass pat pause peek peel peep peer perch
    pick pile pin pinch pitch place plant play plop pluck plunge pocket point poke polish pop
    pounce pour pray press prod pull pump punch push race raise rake rap reach
    recoil rescue retreat retrieve return reveal rip roam roar rob rock roll rotate row rub
    rummage rush sail salute sand scale scamper scatter scoop scrabble scramble scrape
    scratch scrawl scream screech scribble scrub search seize serve shatter shave shelter
    shiver shout shove shovel shriek shrug shuffle shut sigh sign signal sip skate skid skip
    slam slap
    slash slice slip smack smash smile smother snap snarl snatch sneak sneeze sniff snore
    snort soar sob spill spin splash sprawl sprint squeak squeal squeeze squint stab stack stagger
    stalk stamp stare start startle steer step stir stitch stoop stop storm strain stretch
    stride stroke
    stroll struggle stuff stumble stutter suck surge surrender surround swallow swat sway swerve
    swirl swish switch tap tear thrash throb thump thunder tickle tie tilt tiptoe topple toss touch
    tow trace trail transform trap travel tremble trickle trip trot trudge tuck tug
    tumble turn twirl twist twitch unfold unlock unpack unwrap vanish vault visit wade wail
    walk wander wash watch wave weave whack whimper whirl whisper whistle wiggle wince wink
    wipe wobble work wrap wrench wrestle yank yawn yell zip
"""

# Base form and the others that the rules do not give.
_IRREGULAR = """
    beat beaten; bend bent; bite bit bitten; bleed bled; blow blew blown; break broke broken;
    bring brought; build built; burn burnt burned; catch caught; cling clung; come came;
    creep crept; cut cutting; dig dug; draw drew drawn; drink drank drunk; drive drove driven;
    eat ate eaten; fall fell fallen; feed fed; fight fought; flee fled; fling flung; fly flew flown;
    freeze froze frozen; give gave given; go went gone; grind ground; grow grew; hide hid hidden;
    hit hitting; hold held; hang hung; kneel knelt; lay laid; lead led; leap leapt; lean leant;
    leave left; light lit; put putting; ride rode ridden; ring rang rung; rise rose risen; run ran;
    seek sought; send sent; set setting; sew sewn; shake shook shaken; shine shone; shoot shot;
    shrink shrank; shut shutting; sing sang sung; sink sank sunk; sit sat; slide slid; sling slung;
    slit slitting; sneak snuck; spill spilt; spin spun; spit spat; split splitting; spread; spring
    sprang sprung; stand stood; steal stole stolen; stick stuck; sting stung; stride strode; strike
    struck; string strung; swear swore; sweep swept; swim swam swum; swing swung; take took taken;
    tear tore torn; throw threw thrown; thrust; tread trod; wake woke woken; weave wove woven; weep
    wept; wind wound; wring wrung; write wrote written
"""

_DOUBLING = re.compile(r"[^aeiou][aeiou][bdgklmnprt]$")


@functools.cache
def action_forms() -> dict[str, str]:
    """Forms of action verbs: ``base`` (*walk*) and ``third`` (*walks*) could be nouns, no other."""
    forms: dict[str, str] = {}
    bases = set(_REGULAR.split())
    for line in _IRREGULAR.split(";"):
        base, *others = line.split()
        bases.add(base)
        forms.update(dict.fromkeys(others, "past"))
    irregular = {line.split()[0] for line in _IRREGULAR.split(";")}
    for base in sorted(bases):
        forms.setdefault(base, "base")
        sibilant = base.endswith(("s", "sh", "ch", "x", "z"))
        if base.endswith("y") and base[-2] not in "aeiou":
            third, past, stem = f"{base[:-1]}ies", f"{base[:-1]}ied", base
        elif base.endswith("e") and not base.endswith(("ee", "oe", "ye")):
            third, past, stem = f"{base}s", f"{base}d", base[:-1]
        else:
            stem = base + base[-1] if _DOUBLING.search(base) and _short(base) else base
            third, past = base + ("es" if sibilant else "s"), f"{stem}ed"
        forms.setdefault(third, "third")
        forms.setdefault({"tie": "tying"}.get(base, f"{stem}ing"), "past")
        if base not in irregular:
            forms.setdefault(past, "past")
    return forms


def _short(base: str) -> bool:
    """Whether a verb has one syllable, so that its last letter is doubled."""
    return len(re.findall(r"[aeiouy]+", base)) == 1
