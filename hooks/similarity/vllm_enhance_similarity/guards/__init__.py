"""Guards: lexical checks of another kind than the embedding, each with a name and a reason."""
