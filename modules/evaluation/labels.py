"""Labels of metrics in printed tables: what is measured, and its unit. A name without a label is printed as it is."""

from __future__ import annotations

TERMS = {  # Terms of the bound, which are measured given several codes.
    "text_nats_per_token": "text (nats/token)",
    "latent_bits_per_dim": "picture latents (bits/dimension)",
    "velocity_mse": "diffusion loss (velocity MSE)",
    "noise_mse": "diffusion loss (noise MSE)",
}
GIVEN = {
    "own": "own codes",
    "swapped": "another page's codes",
    "null": "null codes",
    "page_swapped": "another page's codes in its own plan",
    "others_swapped": "own codes in another plan",
    "page_null": "null codes in its own plan",
    "others_null": "own codes without a plan",
    "swap_gap": "another page's - own",
    "null_gap": "null - own",
    "page_swap_gap": "another page's in its own plan - own",
    "others_swap_gap": "own in another plan - own",
    "page_null_gap": "null in its own plan - own",
    "others_null_gap": "own without a plan - own",
}
LABELS = {
    "prior_bits_per_code": "codes (bits/code)",
    "prior_bits_per_step": "codes (bits/page)",
    "prior_bits_first_step": "codes of a first page (bits/page)",
    "prior_bits_later_steps": "codes of a later page (bits/page)",
    "text_nats_per_character_own": "text (nats/character), own codes",
    "code_charged_nats_per_character": "text and codes (nats/character)",
    "code_charged_nats_per_token": "text and codes (nats/token)",
    "net_code_value_text": "saved on text - cost of codes (nats/page)",
    "net_code_value_text_and_picture": "saved on text and picture - cost of codes (nats/page)",
    "bound_nats_per_step": "the bound: text, codes and picture (nats/page)",
    "choice_of_4": "accuracy among 4, 3 from other stories",
    "choice_of_4_same_story": "accuracy among 4 of the same story",
    "mrr": "mean reciprocal rank",
    "recall_at_1": "true page is the likeliest",
    "recall_at_5": "true page is among the 5 likeliest",
    "recall_at_10": "true page is among the 10 likeliest",
    "order_auc": "true order is likelier than a shuffled one",
    "BLEU": "BLEU, 0 to 100",
    "chrF": "chrF, 0 to 100",
    "ROUGE-L": "ROUGE-L F1, 0 to 100",
    "distinct-1": "distinct words / all words",
    "distinct-2": "distinct 2-grams / all 2-grams",
    "distinct-3": "distinct 3-grams / all 3-grams",
    "self-BLEU": "self-BLEU, 0 to 100 (similarity)",
    "repeated 4-grams": "texts that repeat a 4-gram",
    "length ratio": "decoded words / true words",
    "cosine": "cosine with the true text",
    "own_prompt_of_4": "a story's texts are nearest to its own prompt, of 4",
    "character_f1": "picture: characters, F1",
    "frame_accuracy": "picture: exactly the true characters",
    "colour": "picture: colour of every character",
    "place": "picture: place",
    "object": "picture: object",
    "weather": "picture: weather",
    "action": "picture: action",
    "hero": "picture: hero",
    "hero_colour": "picture: colour of the hero",
    "hero_colour_persistence": "pictures: hero keeps its colour",
    "text_and_picture_agree": "picture shows what its text names",
    "worn_as_told": "picture: clothes have the colours that the text names",
    "text_character": "text: character",
    "text_colour": "text: colour",
    "text_wearer": "text: who wears which colour",
    "text_place": "text: place",
    "text_object": "text: object",
    "text_weather": "text: weather",
    "text_action": "text: action",
    "character_in_texts": "prompt's characters, in texts",
    "character_in_pictures": "prompt's characters, in pictures",
    "object_in_texts": "prompt's object, in texts",
    "object_in_pictures": "prompt's object, in pictures",
    "place_in_texts": "prompt's place, in texts",
    "place_in_pictures": "prompt's place, in pictures",
    "giver_in_texts": "prompt's giver gives, in texts",
    "helper_in_texts": "prompt's helper helps, in texts",
    "both_in_texts": "prompt's two characters, in one text",
    "both_in_pictures": "prompt's two characters, in one picture",
    "asked_colour_in_texts": "prompt's colours, in texts",
    "edit_fidelity": "edited code is read in the edited page",
    "edit_near": "the same, or a twin of it",
    "edit_locality": "other codes of the edited page are read as before",
    "text_edit_obeyed": "picture shows what the new words change",
    "text_edit_kept": "picture shows the rest as before",
    "image_edit_told": "new text tells what the new picture shows",
    "infill_cast": "those named on a page written between others are of the story",
    "infill_bits_saved": "bits that later pages save a page",
    "other_pages_same": "other pages keep text and pixels",
    "replay_exact": "replayed pages have the same text and pixels",
    "branches_differ": "words that only one page of a fork has",
    "search_agree": "best of 16 plans: picture shows what its text names",
    "asked_colour_in_pictures": "prompt's colours, in pictures",
}
LABELS |= {f"{term}_{given}": f"{text}: {suffix}" for term, text in TERMS.items() for given, suffix in GIVEN.items()}
KINDS = {  # Of pages, by the names in the report.
    "true step, text and picture": "codes of text and picture",
    "true step, text alone": "codes of the text alone",
    "true step, picture alone": "codes of the picture alone",
    "text and picture": "codes of text and picture",
    "text alone": "codes of the text alone",
    "picture alone": "codes of the picture alone",
    "what came before": "prediction from the previous pages",
    "next step": "predicted next page",
    "whole story": "story from its prompt",
    "repeat the last page": "previous page repeated",
    "a random page": "page of another story",
}


def label(name: str) -> str:
    """Return the printed label of a metric."""
    for suffix, meaning in (("(pp)", "picture and its decoded text"), ("(pg)", "picture and the true text")):
        if name.endswith(suffix):
            return f"{name}: {meaning} match, 0 to 100"
    if name.startswith(("FD-", "FID")):
        return f"{name}: Fréchet distance"
    if name.startswith("KID-"):
        return f"{name}: kernel distance"
    return LABELS.get(name, name.replace("_", " "))
