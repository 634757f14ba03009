"""Text templates of each event; the verb of an action appears in no template of another action."""

from __future__ import annotations

TEMPLATES: dict[str, tuple[str, ...]] = {
    "want": (
        "{day} {at}, {hero} wants {an_object} more than anything else.",
        "{day}, {hero} sits {at} and dreams of {an_object}.",
        "{day}, {hero} has only one wish {at}: {he} would love {an_object}.",
    ),
    "want together": (
        "{day} {at}, {hero} and {friend} want {an_object} more than anything else.",
        "{day} {at}, {hero} tells {friend} a wish: {he} would love {an_object}.",
    ),
    "friend_want": (
        "But {friend} wants {an_object} first. {hero} nods and will help {friend_him}.",
        "{friend} tells {hero} a secret: {friend_he} wishes for {an_object}.",
    ),
    "walk": (
        "{hero} walks down the long road {to}. {sky}",
        "{hero} strolls {to}, one step after the other. {sky}",
        "{hero} hikes {to} and hums a little song. {sky}",
    ),
    "walk together": (
        "{hero} and {friend} walk down the long road {to}. {sky}",
        "{hero} and {friend} walk {to}, side by side. {sky}",
    ),
    "travel car": ("{hero} drives {to} in a little car. {sky}", "{hero} jumps into a car and drives {to}. {sky}"),
    "travel boat": ("{hero} sails {to} in a wooden boat. {sky}", "{hero} jumps into a boat and sails {to}. {sky}"),
    "travel rocket": ("{hero} flies {to} on a fast rocket. {sky}", "{hero} jumps on a rocket and flies {to}. {sky}"),
    "seek": (
        "{hero} looks {at} for {an_object}. Where could it be?",
        "{hero} searches {at} and thinks only of {an_object}.",
    ),
    "search": (
        "{hero} looks everywhere {at} for the {object}. Where could it be?",
        "{hero} searches {at} and thinks only of the {object}.",
    ),
    "search together": (
        "{hero} and {friend} look everywhere {at} for the {object}.",
        "{friend} helps {hero}. Together they search {at} for the {object}.",
    ),
    "blocked rock": (
        "{hero} sees {an_object} on top of a tall rock {at}. It is too high, and {he} cries.",
        "There is {an_object} {at}, but the rock is so high that {hero} cries.",
    ),
    "blocked river": (
        "{hero} sees {an_object} behind a wild river {at}. It is too deep, and {he} cries.",
        "There is {an_object} {at}, but the river is so deep that {hero} cries.",
    ),
    "blocked box": (
        "{hero} sees {an_object} inside a glass box {at}. It is locked, and {he} cries.",
        "There is {an_object} {at}, but the glass box is locked, so {hero} cries.",
    ),
    "blocked cave": (
        "{hero} sees {an_object} inside a black cave {at}. It is too dark, and {he} cries.",
        "There is {an_object} {at}, but the cave is so dark that {hero} cries.",
    ),
    "meet": (
        "{hero} meets {friend} {at}. {friend_name} will help {him}.",
        "{friend} kindly greets {hero} {at} and will help {him}.",
    ),
    "meet object": (
        "{hero} meets {friend} {at}. {friend_name} has {an_object}!",
        "{friend} greets {hero} {at} and shows {him} {an_object}.",
    ),
    "meet ladder": (
        "{hero} meets {friend} {at}. {friend_name} has a long ladder.",
        "{friend} greets {hero} {at} and shows {him} a long ladder.",
    ),
    "meet plank": (
        "{hero} meets {friend} {at}. {friend_name} has a strong plank.",
        "{friend} greets {hero} {at} and shows {him} a strong plank.",
    ),
    "meet key": (
        "{hero} meets {friend} {at}. {friend_name} has a golden key.",
        "{friend} greets {hero} {at} and shows {him} a golden key.",
    ),
    "meet lantern": (
        "{hero} meets {friend} {at}. {friend_name} has a bright lantern.",
        "{friend} greets {hero} {at} and shows {him} a bright lantern.",
    ),
    "meet umbrella": (
        "{hero} meets {friend} {at}. {friend_name} has a big umbrella.",
        "{friend} greets {hero} {at} and shows {him} a big umbrella.",
    ),
    "meet sled": (
        "{hero} meets {friend} {at}. {friend_name} has a fast sled.",
        "{friend} greets {hero} {at} and shows {him} a fast sled.",
    ),
    "use rock": (
        "{friend} holds the ladder, and {hero} climbs up to the {object}.",
        "With the ladder of {friend}, {hero} climbs the rock and takes the {object}.",
    ),
    "use river": (
        "{friend} lays a plank over the river, and {hero} crosses it to the {object}.",
        "On the plank of {friend}, {hero} crosses the river and takes the {object}.",
    ),
    "use box": (
        "{friend} brings the key, and {hero} unlocks the box with the {object}.",
        "With the key of {friend}, {hero} unlocks the box and takes the {object}.",
    ),
    "use cave": (
        "{friend} brings the lantern, and {hero} lights up the cave with the {object}.",
        "With the lantern of {friend}, {hero} lights up the cave and takes the {object}.",
    ),
    "use umbrella": (
        "{hero} and {friend} use the umbrella {at}, and the {object} stays dry.",
        "{hero} uses the umbrella of {friend}, and the {object} stays dry {at}.",
    ),
    "use sled": (
        "{hero} and {friend} slide over the snow on the sled, and the {object} comes along.",
        "{hero} uses the sled of {friend} {at}, and the {object} comes along.",
    ),
    "use lantern": (
        "{friend} lights the lantern {at}, and {hero} sees the way and the {object} again.",
        "{hero} uses the lantern of {friend} {at} and sees the {object} again.",
    ),
    "give": (
        "{hero} gives the {object} to {friend}, who smiles from ear to ear.",
        "{hero} offers {friend} the {object}, and both of them smile.",
    ),
    "receive": (
        "{friend} gives the {object} to {hero}, who smiles from ear to ear.",
        "{friend} offers {hero} the {object}, and both of them smile.",
    ),
    "share": (
        "{hero} and {friend} share the {object} {at}, half for each.",
        "{hero} shares the {object} with {friend} {at}, and both are glad.",
    ),
    "give_back": (
        "{friend} is so glad that {friend_he} gives the {object} to {hero}.",
        "To say thank you, {friend} gives {hero} the {object}.",
    ),
    "celebrate": (
        "{hero} celebrates {at} and holds the {object} tight. {sky}",
        "{hero} dances {at}, happy to have the {object} again.",
    ),
    "celebrate together": (
        "{hero} and {friend} celebrate {at} with the {object}. {sky}",
        "{hero} and {friend} dance around the {object} {at}.",
    ),
    "return": (
        "Back {at}, {hero} celebrates and holds the {object} tight. {sky}",
        "Home again {at}, {hero} dances, happy to have the {object}.",
    ),
    "return together": (
        "Back {at}, {hero} and {friend} celebrate with the {object}. {sky}",
        "Home again {at}, {hero} and {friend} cheer for the {object}.",
    ),
    "sleep": (
        "At night {hero} sleeps {at}, with the {object} beside the bed.",
        "Night has come, and {hero} is fast asleep {at} beside the {object}.",
        "{hero} snores in a warm bed {at}. All night the {object} is near.",
    ),
    "play": (
        "{day}, {hero} plays {at} with {his} {object}.",
        "{day}, {hero} is {at}. {he} plays with {his} {object} and laughs.",
    ),
    "play together": (
        "{hero} and {friend} play {at} with the {object} and laugh.",
        "Together, {hero} and {friend} play with the {object} {at}.",
    ),
    "lose": (
        "{day}, {hero} loses {his} {object} {at}. The wind blows it away!",
        "{day}, {hero} drops {his} {object} {at}, and the wind takes it away.",
    ),
    "lose together": (
        "{day} {at}, the {object} of {hero} and {friend} slips away in the wind!",
        "{day} {at}, {hero} drops the {object}. {friend} cannot catch it in the wind.",
    ),
    "cry": (
        "{hero} cannot see it anywhere {at}, and {he} cries big tears.",
        "It is gone! {hero} sits down {at} and sobs.",
    ),
    "trouble rain": (
        "Rain begins to fall {at}. {hero} and the {object} get wet, and {he} cries.",
        "Suddenly there is rain {at}. {hero} weeps because the {object} gets wet.",
    ),
    "trouble snow": (
        "Snow begins to fall {at}. {hero} is too cold to carry the {object}, and {he} cries.",
        "Suddenly there is deep snow {at}. {hero} weeps and cannot carry the {object} home.",
    ),
    "trouble night": (
        "Night comes {at}. {hero} can hardly see the {object} in the dark, and {he} cries.",
        "Suddenly it is night {at}. {hero} weeps and can hardly see the {object}.",
    ),
    "trouble rain together": (
        "Rain begins to fall {at}. {hero} cries because {he}, {friend} and the {object} get wet.",
        "Suddenly there is rain {at}. {hero} weeps, and {friend} and the {object} get wet.",
    ),
    "trouble snow together": (
        "Snow begins to fall {at}. {hero} cries because {he} and {friend} cannot carry the {object}.",
        "Suddenly there is deep snow {at}. {hero} weeps, and {friend} cannot carry the {object} home.",
    ),
    "trouble night together": (
        "Night comes {at}. {hero} cries because {he} and {friend} can hardly see the {object}.",
        "Suddenly it is night {at}. {hero} weeps, and {friend} can hardly see the {object}.",
    ),
    "friend_cry": (
        "{hero} sees {friend} {at}. {friend_name} cries because {friend_he} is all alone.",
        "{friend} sits {at} and sobs. {hero} feels sorry for {friend_him}.",
    ),
    "find": (
        "{hero} finds the {object} {at}! It was there all the time.",
        "There it is! {hero} spots the {object} {at} and laughs.",
    ),
    "find together": (
        "{hero} and {friend} find the {object} {at}! It was there all the time.",
        "{friend} laughs and points. {hero} finds the {object} {at}!",
    ),
    "discover": (
        "{day}, {hero} finds {an_object} {at} and picks it up.",
        "{day}, {hero} discovers {an_object} {at}. How lovely it is!",
    ),
    "discover together": (
        "{day}, {hero} and {friend} spot {an_object} {at} and pick it up.",
        "{day} {at}, {hero} discovers {an_object} and shows it to {friend}.",
    ),
}
