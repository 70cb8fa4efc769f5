"""Search by meaning: python examples/search.py MODEL ["QUERY"], with an embedding model."""

import sys

import edgellm

TEXTS = [
    "The ferry leaves at nine from the old harbour.",
    "Bread rises faster in a warm kitchen.",
    "Python lists grow as items are appended.",
    "The museum is closed on Mondays.",
]

with edgellm.load(sys.argv[1]) as model:
    query = sys.argv[2] if len(sys.argv) > 2 else "When does the boat go?"
    # Embeddings have length 1, so a product of matrices gives the cosine similarities.
    similarities = model.embed(TEXTS) @ model.embed(query)
    for row in similarities.argsort()[::-1]:
        print(f"{similarities[row]:.3f}  {TEXTS[row]}")
