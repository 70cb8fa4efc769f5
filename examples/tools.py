"""A model that calls a function of this program: python examples/tools.py [MODEL]."""

import json
import sys

import edgellm

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "temperature",
            "description": "Temperature in a city, in degrees Celsius",
            "parameters": {
                "type": "object",
                "properties": {"city": {"enum": ["Oslo", "Rome"]}},
                "required": ["city"],
            },
        },
    }
]


def temperature(city: str) -> int:
    return 12 if city == "Oslo" else 21


with edgellm.load(sys.argv[1] if len(sys.argv) > 1 else "smollm2") as model:
    messages = [{"role": "user", "content": "How warm is it in Oslo?"}]
    # "required": the answer is a call. With "auto" the model chooses between words and calls.
    message = model.chat(messages, tools=TOOLS, tool_choice="required", max_tokens=200).message
    messages.append(message.as_dict())
    for number, call in enumerate(message.tool_calls):
        print(f"{call.name}({json.dumps(call.arguments)})")
        result = temperature(**call.arguments)
        messages.append({"role": "tool", "tool_call_id": f"call_{number}", "content": str(result)})
    print(model.chat(messages, tools=TOOLS, tool_choice="none", max_tokens=40, temperature=0))
