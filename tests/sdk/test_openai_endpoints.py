"""The OpenAI SDK's other calls: each passes through with its own kind of body."""

import hashlib
import io

MODEL = "openai/gpt-4o-mini"


def test_models_are_listed(openai_client):
    names = [model.id for model in openai_client.models.list()]
    assert "gpt-4o-mini" in names


def test_embeddings_come_as_numbers_and_as_base64(openai_client):
    # The SDK asks for base64 by default and decodes it.
    encoded = openai_client.embeddings.create(model="openai/text-embedding-3-small", input=["one", "two"], dimensions=8)
    plain = openai_client.embeddings.create(
        model="openai/text-embedding-3-small", input=["one", "two"], dimensions=8, encoding_format="float"
    )
    assert [len(item.embedding) for item in encoded.data] == [8, 8]
    for one, other in zip(encoded.data, plain.data):
        assert all(abs(a - b) < 1e-5 for a, b in zip(one.embedding, other.embedding))
    assert encoded.usage.prompt_tokens > 0


def test_completions_are_answered_and_streamed(openai_client):
    unary = openai_client.completions.create(model=MODEL, prompt="Once")
    assert unary.object == "text_completion"
    stream = openai_client.completions.create(model=MODEL, prompt="Once", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices) == unary.choices[0].text


def test_moderations_are_answered(openai_client):
    assert openai_client.moderations.create(model="openai/omni-moderation-latest", input="flagme").results[0].flagged
    assert not openai_client.moderations.create(input="kind words").results[0].flagged


def test_a_file_lives_from_upload_to_deletion(openai_client):
    content = bytes(range(256)) * 64
    created = openai_client.files.create(file=("data.jsonl", io.BytesIO(content)), purpose="batch")
    assert created.bytes == len(content)
    assert created.id in [file.id for file in openai_client.files.list()]
    assert openai_client.files.retrieve(created.id).filename == "data.jsonl"
    assert openai_client.files.content(created.id).read() == content
    assert openai_client.files.delete(created.id).deleted


def test_a_batch_is_made_of_a_file(openai_client):
    created = openai_client.files.create(file=("batch.jsonl", io.BytesIO(b"{}\n")), purpose="batch")
    batch = openai_client.batches.create(
        input_file_id=created.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    assert openai_client.batches.retrieve(batch.id).id == batch.id


def test_speech_is_transcribed(openai_client):
    sound = bytes(byte * 7 % 256 for byte in range(100_000))
    answer = openai_client.audio.transcriptions.create(
        model="openai/whisper-1", file=("speech.wav", io.BytesIO(sound)), language="de"
    )
    assert answer.text
    seen = answer.model_extra["sim_file"]
    assert (seen["bytes"], seen["sha256"]) == (len(sound), hashlib.sha256(sound).hexdigest())
    assert answer.model_extra["sim_field_model"] == "whisper-1"
    assert answer.model_extra["sim_field_language"] == "de"


def test_text_is_spoken(openai_client):
    speech = openai_client.audio.speech.create(
        model="openai/tts-1", voice="alloy", input="Hello.", extra_headers={"x-sim": "bytes=70000"}
    )
    assert len(speech.read()) == 70000


def test_images_are_made(openai_client):
    answer = openai_client.images.generate(
        model="openai/gpt-image-1", prompt="a lock gate", n=2, extra_headers={"x-sim": "bytes=1048576"}
    )
    assert [len(image.b64_json) for image in answer.data] == [1048576, 1048576]


def test_images_are_edited(openai_client):
    answer = openai_client.images.edit(
        model="openai/gpt-image-1", image=("gate.png", io.BytesIO(b"\x89PNG" * 1000), "image/png"), prompt="at night"
    )
    assert answer.data[0].b64_json
