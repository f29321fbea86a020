#!/usr/bin/env python3
"""Asks a running `strata serve` through the clients of OpenAI and Anthropic, and asserts what they make of its replies.

For developers: needs the packages openai and anthropic, which nothing else does. CONTRIBUTING.md ("The server beside its
clients") says how it is run. The last line is `N passed, N failed, N skipped`; exit code 1 where any failed.

    client_check.py URL KEY                  the server at URL takes KEY; what wants tools is skipped where its template takes none
    client_check.py --give-tools IN OUT      a copy of a ChatML model file whose template takes tools, calls as Hermes writes them
"""
import json
import struct
import sys
import traceback

CHECKS = []
CALLS_TEMPLATE = r"""
{%- if tools %}{{ '<|im_start|>system\nTools:\n' }}{% for tool in tools %}{{ tool | tojson }}{{ '\n' }}{% endfor %}
{{- '<|im_end|>\n' }}{% endif %}
{%- for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content }}
{%- for call in message.tool_calls or [] %}{{ '<tool_call>\n' + (call.function | tojson) + '\n</tool_call>' }}{% endfor %}
{{- '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

QUESTION = [{"role": "user", "content": "Name one colour."}]
PLACE = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"enum": [1, 2, 3]}},
         "required": ["city", "days"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Weather of a city", "parameters": PLACE}}
GREEDY = {"extra_body": {"temperature": 0}}  # Anthropic's client has no such argument any more
ANTHROPIC_TOOL = {"name": "weather", "description": "Weather of a city", "input_schema": PLACE}


def check(function):
    CHECKS.append(function)
    return function


def wants_tools(function):
    function.wants_tools = True
    return function


class Skipped(Exception):
    pass


class Clients:
    def __init__(self, url, key):
        import anthropic
        import openai

        self.openai, self.anthropic = openai, anthropic
        self.chats = openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0)
        self.messages = anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)
        self.stranger = openai.OpenAI(base_url=url + "/v1", api_key="wrong", max_retries=0)
        self.other_stranger = anthropic.Anthropic(base_url=url, api_key="wrong", max_retries=0)
        self.model = self.chats.models.list().data[0].id
        props = self.chats.get("../props", cast_to=object)
        self.takes_tools = "tools" in props["chat_template"]
        self.n_ctx = props["default_generation_settings"]["n_ctx"]

    def chat(self, messages=QUESTION, **more):
        return self.chats.chat.completions.create(
            model=self.model, messages=messages, **{"max_tokens": 8, "temperature": 0, **more})

    def text(self, prompt="Once upon a time", **more):
        return self.chats.completions.create(model=self.model, prompt=prompt, **{"max_tokens": 8, "temperature": 0, **more})

    def message(self, messages=QUESTION, **more):
        return self.messages.messages.create(model=self.model, messages=messages, **{"max_tokens": 8, **GREEDY, **more})


def refused(kind, ask):
    try:
        ask()
    except kind as error:
        return error
    raise AssertionError(f"not refused as {kind.__name__}")


@check
def models_are_listed(c):
    models = c.chats.models.list().data
    assert len(models) == 1 and models[0].object == "model", models


@check
def chat_answers(c):
    reply = c.chat()
    choice = reply.choices[0]
    assert choice.message.role == "assistant" and choice.message.content, reply
    assert choice.finish_reason in ("stop", "length"), reply
    usage = reply.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens and 0 < usage.completion_tokens <= 8, usage
    assert reply._request_id, reply


@check
def chat_streams_the_same_and_its_usage(c):
    chunks = list(c.chat(stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    whole = c.chat()
    assert text == whole.choices[0].message.content, text
    assert not chunks[-1].choices and chunks[-1].usage.total_tokens == whole.usage.total_tokens, chunks[-1]
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason


@check
def second_question_is_cached(c):
    ask = [{"role": "user", "content": "Count: " + " ".join(map(str, range(100)))}]
    c.chat(ask, max_tokens=1)
    details = c.chat(ask, max_tokens=1).usage.prompt_tokens_details
    assert details.cached_tokens > 0, details


@check
def seeds_repeat_answers(c):
    texts = [c.chat(temperature=1.5, seed=seed, max_tokens=16).choices[0].message.content for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2], texts


@check
def stop_texts_end_answers(c):
    whole = c.text(max_tokens=16).choices[0].text
    stop = whole.split()[2]
    reply = c.text(max_tokens=16, stop=[stop])
    assert stop not in reply.choices[0].text and reply.choices[0].finish_reason == "stop", reply


@check
def chat_tells_logprobs(c):
    reply = c.chat(logprobs=True, top_logprobs=3)
    tokens = reply.choices[0].logprobs.content
    assert len(tokens) == reply.usage.completion_tokens, tokens
    assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in tokens), tokens
    assert tokens[0].token == tokens[0].top_logprobs[0].token, tokens[0]


@check
def completions_echo_stream_and_take_tokens(c):
    whole = c.text(echo=True).choices[0].text
    assert whole.startswith("Once upon a time") and len(whole) > 16, whole
    assert "".join(chunk.choices[0].text for chunk in c.text(stream=True)) == whole[16:]
    ids = c.chats.post("../tokenize", body={"content": "Once upon a time"}, cast_to=object)["tokens"]
    assert c.text(ids).choices[0].text == whole[16:]
    logprobs = c.text(logprobs=2).choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == 8 and len(logprobs.top_logprobs[0]) == 2, logprobs


@check
def answers_fit_a_json_schema(c):
    form = {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": PLACE}}
    place = json.loads(c.chat(max_tokens=100, response_format=form).choices[0].message.content)
    assert isinstance(place["city"], str) and place["days"] in (1, 2, 3) and len(place) == 2, place


@check
def answers_become_a_model_of_pydantic(c):
    import pydantic

    class Colour(pydantic.BaseModel):
        is_warm: bool
        shade: int

    reply = c.chats.chat.completions.parse(
        model=c.model, messages=QUESTION, max_tokens=100, temperature=0, response_format=Colour)
    assert isinstance(reply.choices[0].message.parsed, Colour), reply


@check
def errors_name_the_field(c):
    for field, value in (("temperature", "hot"), ("max_tokens", 1.5), ("stop", [7]), ("stream", "yes"), ("messages", "hi")):
        error = refused(c.openai.BadRequestError, lambda: c.chat(extra_body={field: value}))
        assert error.param == field and error.type == "invalid_request_error", error


@check
def several_answers_at_once_are_refused(c):
    assert refused(c.openai.BadRequestError, lambda: c.chat(n=2)).param == "n"


@check
def long_prompts_are_refused(c):
    long = [{"role": "user", "content": "word " * 2 * c.n_ctx}]
    error = refused(c.openai.BadRequestError, lambda: c.chat(long))
    assert error.code == "context_length_exceeded" and str(c.n_ctx) in error.message, error
    refused(c.anthropic.BadRequestError, lambda: c.message(long))


@check
def wrong_keys_are_refused(c):
    refused(c.openai.AuthenticationError, c.stranger.models.list)
    refused(c.anthropic.AuthenticationError, lambda: c.other_stranger.messages.create(
        model=c.model, max_tokens=1, messages=QUESTION))


@check
def unknown_routes_are_refused(c):
    refused(c.openai.NotFoundError, lambda: c.chats.embeddings.create(model=c.model, input="a"))


@check
@wants_tools
def forced_call_and_its_result(c):
    ask = [{"role": "user", "content": "How will the weather be in Rome?"}]
    reply = c.chat(ask, tools=[TOOL], tool_choice="required", max_tokens=100)
    choice = reply.choices[0]
    call = choice.message.tool_calls[0]
    assert choice.finish_reason == "tool_calls" and call.function.name == "weather", reply
    arguments = json.loads(call.function.arguments)
    assert set(arguments) == {"city", "days"} and arguments["days"] in (1, 2, 3), arguments
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    answer = c.chat(ask + [choice.message, result], tools=[TOOL], tool_choice="none")
    assert answer.choices[0].message.content and not answer.choices[0].message.tool_calls, answer


@check
@wants_tools
def forced_call_is_streamed(c):
    named = {"type": "function", "function": {"name": "weather"}}
    more = {"tools": [TOOL], "tool_choice": named, "max_tokens": 100}
    chunks = [chunk for chunk in c.chat(stream=True, **more) if chunk.choices]
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert calls[0].function.name == "weather" and calls[0].id and calls[0].index == 0, calls
    whole = c.chat(**more).choices[0].message.tool_calls[0]
    assert "".join(call.function.arguments for call in calls) == whole.function.arguments, calls
    assert chunks[-1].choices[0].finish_reason == "tool_calls", chunks[-1]


@check
def messages_answer(c):
    reply = c.message(system=[{"type": "text", "text": "Be brief."}], thinking={"type": "disabled"}, metadata={"user_id": "u"})
    assert reply.type == "message" and reply.content[0].type == "text" and reply.content[0].text, reply
    assert reply.stop_reason in ("end_turn", "max_tokens") and 0 < reply.usage.output_tokens <= 8, reply


@check
def messages_stop_at_sequences(c):
    whole = c.message(max_tokens=16).content[0].text
    stop = whole.split()[1]
    reply = c.message(max_tokens=16, stop_sequences=[stop])
    assert reply.stop_reason == "stop_sequence" and reply.stop_sequence == stop, reply


@check
def messages_stream_the_same(c):
    with c.messages.messages.stream(model=c.model, max_tokens=8, messages=QUESTION, **GREEDY) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    whole = c.message()
    assert text == final.content[0].text == whole.content[0].text, text
    assert final.stop_reason == whole.stop_reason and final.usage.output_tokens == whole.usage.output_tokens, final


@check
def messages_refuse_images(c):
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    error = refused(c.anthropic.BadRequestError, lambda: c.message([{"role": "user", "content": [image]}]))
    assert error.body["error"]["type"] == "invalid_request_error", error


@check
@wants_tools
def messages_call_tools_and_take_results(c):
    ask = [{"role": "user", "content": "How will the weather be in Rome?"}]
    more = {"tools": [ANTHROPIC_TOOL], "max_tokens": 100}
    reply = c.message(ask, tool_choice={"type": "any"}, **more)
    use = reply.content[-1]
    assert reply.stop_reason == "tool_use" and use.type == "tool_use" and use.name == "weather", reply
    assert set(use.input) == {"city", "days"}, use
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}]}
    answer = c.message(ask + [{"role": "assistant", "content": reply.content}, result], tools=[ANTHROPIC_TOOL])
    assert answer.content[0].text, answer
    with c.messages.messages.stream(
            model=c.model, messages=ask, tool_choice={"type": "tool", "name": "weather"}, **more, **GREEDY) as stream:
        assert stream.get_final_message().content[-1].input == use.input


def run(url, key):
    clients = Clients(url.rstrip("/"), key)
    n = {"passed": 0, "failed": 0, "skipped": 0}
    for function in CHECKS:
        try:
            if getattr(function, "wants_tools", False) and not clients.takes_tools:
                end, why = "skipped", ": the model's template takes no tools"
            else:
                function(clients)
                end, why = "passed", ""
        except Exception:  # of a client, or what was asserted
            end, why = "failed", "\n" + traceback.format_exc()
        n[end] += 1
        print(f"{end} {function.__name__}{why}")
    print(", ".join(f"{count} {end}" for end, count in n.items()))
    return n["failed"] > 0


SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # of GGUF's types of values


def value_end(data, kind, at):
    """Where a value of a GGUF head ends that begins at `at`."""
    if kind == 8:
        return at + 8 + struct.unpack_from("<Q", data, at)[0]
    if kind != 9:
        return at + SIZES[kind]
    kind, n = struct.unpack_from("<IQ", data, at)
    at += 12
    if kind in SIZES:
        return at + n * SIZES[kind]
    for _ in range(n):
        at = value_end(data, kind, at)
    return at


def give_tools(source, target):
    """Replaces the template of a GGUF file; a comment fills it up, so that the tensors stay aligned."""
    with open(source, "rb") as file:
        data = file.read()
    n_values, at = struct.unpack_from("<Q", data, 16)[0], 24
    for _ in range(n_values):
        name_end = value_end(data, 8, at)
        name, kind = data[at + 8:name_end], struct.unpack_from("<I", data, name_end)[0]
        end = value_end(data, kind, name_end + 4)
        if name == b"tokenizer.chat_template":
            text = CALLS_TEMPLATE.encode() + b"{##}"
            text = text[:-2] + b" " * ((end - name_end - 12 - len(text)) % 64) + b"#}"
            break
        at = end
    else:
        sys.exit("error: the file has no template")
    with open(target, "wb") as file:
        file.write(data[:name_end + 4] + struct.pack("<Q", len(text)) + text + data[end:])


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "--give-tools":
        give_tools(sys.argv[2], sys.argv[3])
    elif len(sys.argv) == 3:
        sys.exit(run(sys.argv[1], sys.argv[2]))
    else:
        sys.exit(__doc__)
