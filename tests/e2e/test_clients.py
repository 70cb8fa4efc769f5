# ruff: noqa: E501
"""Frameworks on top of the APIs, each by a small script: an answer, a stream, a call, an embedding.

A script runs in a process of its own, as these libraries warn and set up the process as they like. Those that
are not installed are skipped. EDGELLM_CLIENTS_PYTHON names the Python that has them (clients-requirements.txt
says how to make it), as NODE_PATH names the folder of npm's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgellm.engine.load_options import LoadOptions
from tests.support.http_server import Running, running
from tests.support.tiny_model import write_tiny_model

CLIENTS_PYTHON = os.environ.get("EDGELLM_CLIENTS_PYTHON", sys.executable)
BEGIN = """
import os, sys, warnings
warnings.simplefilter("ignore")
url = sys.argv[1]
from pydantic import BaseModel, Field
class City(BaseModel):
    \"\"\"A city.\"\"\"
    size: int = Field(ge=1, le=9)
    unit: str = Field(pattern="^[CF]$")
"""
PYTHON = {
    "langchain_openai": """
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
model = ChatOpenAI(model="tiny", base_url=url + "/v1", api_key="none", max_retries=0, max_tokens=300, temperature=0)
assert list(model.stream("hi", max_tokens=4))
for method in ("json_schema", "function_calling"):
    found = model.with_structured_output(City, method=method).invoke("hi")
    assert isinstance(found, City), found
bound = model.bind_tools([City], tool_choice="any", parallel_tool_calls=False).invoke("hi")
assert bound.tool_calls[0]["name"] == "City"
embedder = OpenAIEmbeddings(model="tiny", base_url=url + "/v1", api_key="none", check_embedding_ctx_length=False)
assert len(embedder.embed_documents(["a", "b"])) == 2
""",
    "langchain_ollama": """
from langchain_ollama import ChatOllama, OllamaEmbeddings
model = ChatOllama(model="tiny", base_url=url, num_predict=60, temperature=0, num_ctx=2048)
assert list(model.stream("hi"))
assert isinstance(model.with_structured_output(City, method="json_schema").invoke("hi"), City)
model.bind_tools([City]).invoke("hi")
assert len(OllamaEmbeddings(model="tiny", base_url=url).embed_documents(["a", "b"])) == 2
""",
    "instructor": """
import instructor, openai
raw = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
    client = instructor.from_openai(raw, mode=mode)
    found = client.chat.completions.create(
        model="tiny", response_model=City, max_retries=0, max_tokens=300, messages=[{"role": "user", "content": "hi"}]
    )
    assert isinstance(found, City), found
""",
    "pydantic_ai": """
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
provider = OpenAIProvider(base_url=url + "/v1", api_key="none")
settings = {"max_tokens": 300, "temperature": 0.0}
for model in (OpenAIChatModel("tiny", provider=provider), OpenAIResponsesModel("tiny", provider=provider)):
    agent = Agent(model, output_type=ToolOutput(City), model_settings=settings)
    assert isinstance(agent.run_sync("hi").output, City)
agent = Agent(OpenAIChatModel("tiny", provider=provider), output_type=NativeOutput(City), model_settings=settings)
assert isinstance(agent.run_sync("hi").output, City)
""",
    "agents": """
import asyncio, openai
from typing import Literal
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool
from agents import set_tracing_disabled
set_tracing_disabled(True)
client = openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
called = []
@function_tool
def look(city: Literal["here"]) -> str:
    \"\"\"Look at a city.\"\"\"
    called.append(city)
    return "seen"
async def main():
    for kind in (OpenAIChatCompletionsModel, OpenAIResponsesModel):
        settings = ModelSettings(max_tokens=300, temperature=0.0, tool_choice="required", parallel_tool_calls=False)
        agent = Agent(name="a", model=kind("tiny", client), tools=[look], model_settings=settings,
                      tool_use_behavior="stop_on_first_tool")
        assert (await Runner.run(agent, "hi")).final_output == "seen"
        agent = Agent(name="b", model=kind("tiny", client), output_type=City, model_settings=ModelSettings(max_tokens=300))
        assert isinstance((await Runner.run(agent, "hi")).final_output, City)
asyncio.run(main())
assert called
""",
    "litellm": """
import litellm
litellm.telemetry = False
asked = dict(messages=[{"role": "user", "content": "hi"}], api_key="none", max_tokens=300, num_retries=0)
openai = dict(asked, model="openai/tiny", api_base=url + "/v1")
found = litellm.completion(**openai, response_format=City)
City.model_validate_json(found.choices[0].message.content)
tool = {"type": "function", "function": {"name": "City", "parameters": City.model_json_schema()}}
found = litellm.completion(**openai, tools=[tool], tool_choice="required", parallel_tool_calls=False)
City.model_validate_json(found.choices[0].message.tool_calls[0].function.arguments)
assert list(litellm.completion(**{**openai, "max_tokens": 4}, stream=True))
assert litellm.completion(**{**asked, "max_tokens": 4}, model="ollama_chat/tiny", api_base=url).choices
assert litellm.completion(**{**asked, "max_tokens": 4}, model="anthropic/tiny", api_base=url).choices
""",
}  # fmt: skip
NODE = {
    "@ai-sdk/openai-compatible": """
const { createOpenAICompatible } = require("@ai-sdk/openai-compatible");
const { generateText, streamText, embed, tool, jsonSchema } = require("ai");
(async () => {
  const provider = createOpenAICompatible({ name: "edgellm", baseURL: process.argv[2] + "/v1", apiKey: "none",
    includeUsage: true });
  const common = { model: provider("tiny"), prompt: "hi", maxRetries: 0 };
  const parameters = { type: "object", properties: { unit: { enum: ["C"] } }, required: ["unit"] };
  const look = tool({ description: "look", inputSchema: jsonSchema(parameters) });
  const made = await generateText({ ...common, maxOutputTokens: 300, tools: { look }, toolChoice: "required" });
  if (made.toolCalls[0].toolName !== "look") throw new Error("no call");
  let n = 0;
  for await (const part of streamText({ ...common, maxOutputTokens: 6 }).textStream) n += part.length;
  const { embedding } = await embed({ model: provider.textEmbeddingModel("tiny"), value: "a" });
  if (embedding.length === 0) throw new Error("no embedding");
})().catch((error) => { console.error(error); process.exit(1); });
""",
    "ollama": """
const { Ollama } = require("ollama");
(async () => {
  const client = new Ollama({ host: process.argv[2] });
  const messages = [{ role: "user", content: "hi" }];
  const format = { type: "object", properties: { unit: { enum: ["C"] } }, required: ["unit"] };
  const found = await client.chat({ model: "tiny", messages, format, options: { num_predict: 100 } });
  if (JSON.parse(found.message.content).unit !== "C") throw new Error("no format");
  for await (const part of await client.chat({ model: "tiny", messages, stream: true, options: { num_predict: 4 } }))
    if (!part.model) throw new Error("no model");
  const { embeddings } = await client.embed({ model: "tiny", input: ["a", "b"] });
  if (embeddings.length !== 2) throw new Error("no embeddings");
  if ((await client.list()).models.length !== 1) throw new Error("no list");
})().catch((error) => { console.error(error); process.exit(1); });
""",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    path = write_tiny_model(tmp_path_factory.mktemp("models") / "tiny.gguf", **{"llama.context_length": 8192})
    with running([("tiny", path)], LoadOptions(threads=1, context=8192, cache_contexts=1)) as started:
        yield started


def run(command: list[str], folder: Path, **environment: str) -> None:
    variables = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **environment}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def installed() -> dict[str, bool]:
    """Names of packages that the clients' Python can import."""
    find = f"import json; from importlib.util import find_spec as find; names = {sorted(PYTHON)}; "
    show = "print(json.dumps({name: find(name) is not None for name in names}))"
    done = subprocess.run([CLIENTS_PYTHON, "-c", find + show], capture_output=True, text=True, check=True)
    found: dict[str, bool] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("package", PYTHON)
def test_a_python_framework(
    server: Running, tmp_path: Path, installed: dict[str, bool], package: str
) -> None:
    if not installed[package]:
        pytest.skip(f"{package} is not installed for {CLIENTS_PYTHON} (EDGELLM_CLIENTS_PYTHON names another)")
    script = tmp_path / "script.py"
    script.write_text(BEGIN + PYTHON[package], encoding="utf-8")
    offline = {
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "OPENAI_API_KEY": "none",
    }
    run([CLIENTS_PYTHON, str(script), server.url], tmp_path, **offline)


@pytest.mark.parametrize("package", NODE)
def test_a_node_framework(server: Running, tmp_path: Path, package: str) -> None:
    node, modules = shutil.which("node"), os.environ.get("NODE_PATH", "")
    if node is None or not (Path(modules) / package).is_dir():
        pytest.skip(f"node or {package} is not installed (NODE_PATH names the folder of packages)")
    script = tmp_path / "script.cjs"
    script.write_text(NODE[package], encoding="utf-8")
    run([node, str(script), server.url], tmp_path, NODE_PATH=modules)
