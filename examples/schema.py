"""An answer in the form of a pydantic class: python examples/schema.py [MODEL]."""

import sys
from typing import Literal

from pydantic import BaseModel, Field

import edgellm


class Review(BaseModel):
    rating: Literal[1, 2, 3, 4, 5]
    reason: str = Field(max_length=30)


with edgellm.load(sys.argv[1] if len(sys.argv) > 1 else "smollm2") as model:
    messages = [{"role": "user", "content": "Rate this film: two hours of rain, and I loved it."}]
    answer = model.chat(messages, schema=Review.model_json_schema(), temperature=0)
    review = Review.model_validate_json(answer.text)
    print(review.rating, review.reason)
