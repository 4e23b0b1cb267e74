"""What the tables and views of imports, and of vectors of labels, mean: a part of comments.py, which says how it is used."""

from __future__ import annotations

RELATIONS: dict[str, str] = {
    "label_vector": "What a sentence encoder makes of a label, for `glossator search --similar`; a label that changed has none",
    "published": "One row for each feature and import that says anything of it: what others published, beside what was measured here",
    "imported_file": "One row for each file of Neuronpedia's export that was imported",
    "imported_feature": "Features as others published them, a row of a file each; the view published has them beside ours",
    "imported_activation": "Windows in which a feature is active as others published them, a row of a file each",
    "imported_explanation": "Explanations as others published them, a row of a file each; as labels to score they are in explanation",
}

COLUMNS: dict[str, str] = {
    "encoder": "Name of the sentence encoder",
    "encoder_digest": "Hash of its weights and of how it pools",
    "vector": "The vector; of length 1 where we made it",
    "items": "How many rows it holds",
    "file": "Which of their files, by its name",
    "line": "Which line of the file",
    "layer": "What they call the hook: their source",
    "subject": "What they call the model that is studied",
    "fields": "The names of all fields of the row in their order, as a JSON list",
    "rest": "Fields that no other column holds as they were written, as JSON",
    "bar_heights": "Their histogram of activations: heights of its bars",
    "bar_values": "Their histogram of activations: where its bars are",
    "logit_bar_heights": "Their histogram of logits: heights of its bars",
    "logit_bar_values": "Their histogram of logits: where its bars are",
    "their_id": "Its id with those who published it",
    "max_token": "Index of the token with the largest activation, from 0",
    "min_activation": "Smallest activation",
    "bin_min": "Lower end of the interval of activations that it was drawn from",
    "bin_max": "Upper end of that interval",
    "bin_contains": "Share of activations in that interval",
    "data_source": "The text that it is from",
    "description": "What the explanation says",
    "method": "Their name for how it was written",
    "author": "Their id of who had it written",
    "their_density": "Share of tokens on which it is active in their corpus",
    "their_max_activation": "Largest activation that they publish",
    "their_token": "The token with the largest activation in their windows",
    "their_top_logits": "Tokens that its direction makes likelier, as they publish them",
    "their_bottom_logits": "Tokens that its direction makes less likely, as they publish them",
    "their_windows": "How many windows they publish",
    "their_explanations": "How many explanations they publish",
}

HERE: dict[str, str] = {
    "imported_file.source": "Under which name it was imported",
    "imported_feature.source": "Under which name it was imported",
    "imported_activation.source": "Under which name it was imported",
    "imported_explanation.source": "Under which name it was imported",
    "published.source": "Under which name it was imported",
    "imported_file.kind": "features, activations or explanations",
    "imported_file.digest": "Hash of its content, so that it is stored once",
    "imported_feature.density": "Share of tokens on which the feature is active in their corpus (frac_nonzero)",
    "imported_feature.max_activation": "Largest activation that they know of (maxActApprox)",
    "imported_feature.hook": "Their name of the hook",
    "imported_activation.tokens": "Tokens of the window",
    "imported_explanation.model": "The language model that wrote it",
    "label_vector.text": "The label",
    "published.max_activation": "Largest activation of the feature in the corpus",
}
