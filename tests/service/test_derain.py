"""POST /derain as a client sees it. Were these wrong, clients built on the contract would break."""

import base64
import json
import re
import zipfile
from collections.abc import Callable
from io import BytesIO
from urllib.parse import quote, unquote

import httpx
import numpy as np
import pytest
import pyvips
from PIL import Image, ImageCms

Make = Callable[..., Image.Image]
Encode = Callable[..., bytes]
Decode = Callable[[bytes], Image.Image]

PROMPT = "heavy rain, slanting to the left: 100 % von über links"
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ANSWER = {"images", "model", "prompt", "caption", "perceived", "batch_size", "timings_ms", "request_id"}
STAGES = ["decode", "queue", "inference", "encode", "total"]


@pytest.fixture(scope="module")
def photograph(make_image: Make) -> Image.Image:
    return make_image(1, 90, 61)


@pytest.fixture(scope="module")
def png(photograph: Image.Image, encode: Encode) -> bytes:
    return encode(photograph)


def server_timing(response: httpx.Response) -> dict[str, float]:
    pairs = re.findall(r"(\w+);dur=([\d.]+)", response.headers["server-timing"])
    return {stage: float(duration) for stage, duration in pairs}


class TestRequestForms:
    def test_a_form_with_a_file_comes_back_as_an_image(
        self, client: httpx.Client, png: bytes, decode: Decode
    ) -> None:
        files = {"image": ("rainy.png", png, "image/png")}
        response = client.post("/derain", files=files, data={"prompt": PROMPT})
        assert response.status_code == 200
        assert response.headers["content-type"] == "image/png"
        restored = decode(response.content)
        assert (restored.format, restored.mode, restored.size) == ("PNG", "RGB", (90, 61))

    def test_so_does_a_bare_body_with_query_parameters(
        self, client: httpx.Client, png: bytes, decode: Decode
    ) -> None:
        parameters = {"prompt": PROMPT, "format": "webp"}
        response = client.post(
            "/derain", content=png, headers={"Content-Type": "image/png"}, params=parameters
        )
        assert response.status_code == 200
        assert response.headers["content-type"] == "image/webp"
        assert decode(response.content).format == "WEBP"
        assert unquote(response.headers["x-derain-prompt"]) == PROMPT

    def test_both_give_the_same_pixels(self, client: httpx.Client, png: bytes, decode: Decode) -> None:
        form = client.post("/derain", files={"image": png}, data={"prompt": PROMPT, "caption": "a street"})
        bare = client.post(
            "/derain",
            content=png,
            headers={"Content-Type": "image/png"},
            params={"prompt": PROMPT, "caption": "a street"},
        )
        difference = np.asarray(decode(form.content)).astype(int) - np.asarray(decode(bare.content))
        assert np.abs(difference).max() <= 1

    def test_the_declared_type_is_not_believed(self, client: httpx.Client, png: bytes) -> None:
        response = client.post("/derain", content=png, headers={"Content-Type": "image/jpeg"})
        assert response.headers["content-type"] == "image/png"

    def test_blank_fields_are_as_good_as_none(self, client: httpx.Client, png: bytes) -> None:
        fields = {"prompt": " ", "caption": "", "model": "", "format": "", "metadata": ""}
        json = {"Accept": "application/json"}
        response = client.post("/derain", files={"image": png}, data=fields, headers=json)
        assert response.status_code == 200
        assert response.json()["perceived"] is True


class TestAnswers:
    def test_json_has_the_fields_of_the_contract(
        self, client: httpx.Client, png: bytes, decode: Decode
    ) -> None:
        response = client.post(
            "/derain",
            files={"image": png},
            data={"prompt": PROMPT, "format": "jpeg"},
            headers={"Accept": "application/json", "X-Request-ID": "my-own-id"},
        )
        assert response.headers["content-type"] == "application/json"
        answer = response.json()
        assert set(answer) == ANSWER
        (image,) = answer["images"]
        assert set(image) == {"image", "media_type", "width", "height"}
        assert (image["media_type"], image["width"], image["height"]) == ("image/jpeg", 90, 61)
        restored = decode(base64.b64decode(image["image"], validate=True))
        assert (restored.format, restored.size) == ("JPEG", (90, 61))
        assert (answer["prompt"], answer["perceived"]) == (PROMPT, False)
        assert answer["request_id"] == "my-own-id"
        assert list(answer["timings_ms"]) == STAGES
        assert server_timing(response) == pytest.approx(answer["timings_ms"], abs=0.01)

    def test_several_images_come_back_in_order(
        self, client: httpx.Client, make_image: Make, encode: Encode, decode: Decode
    ) -> None:
        sizes = [(64, 48), (30, 70), (64, 48), (17, 9)]
        pictures = [make_image(seed, *size) for seed, size in enumerate(sizes)]
        alone = [client.post("/derain", files={"image": encode(picture)}) for picture in pictures]
        response = client.post("/derain", files=[("image", encode(picture)) for picture in pictures])
        assert response.status_code == 200
        answer = response.json()
        assert [(image["width"], image["height"]) for image in answer["images"]] == sizes
        for image, single in zip(answer["images"], alone, strict=True):
            together = np.asarray(decode(base64.b64decode(image["image"]))).astype(int)
            assert np.abs(together - np.asarray(decode(single.content))).max() <= 1

    def test_or_in_an_archive(
        self, client: httpx.Client, make_image: Make, encode: Encode, decode: Decode
    ) -> None:
        response = client.post(
            "/derain",
            files=[
                ("image", ("../../etc/first one.png", encode(make_image(1, 40, 30)))),
                ("image", ("second.jpeg", encode(make_image(2, 20, 50), "JPEG"))),
                ("image", ("second.jpeg", encode(make_image(3, 24, 24)))),
            ],
            headers={"Accept": "application/zip"},
        )
        assert response.headers["content-type"] == "application/zip"
        with zipfile.ZipFile(BytesIO(response.content)) as archive:
            assert archive.namelist() == ["01_first_one.png", "02_second.jpg", "03_second.png"]
            assert [decode(archive.read(name)).size for name in archive.namelist()] == [
                (40, 30),
                (20, 50),
                (24, 24),
            ]

    def test_every_answer_tells_how_it_was_made(self, client: httpx.Client, png: bytes) -> None:
        response = client.post("/derain", files={"image": png}, data={"prompt": PROMPT})
        timing = server_timing(response)
        assert list(timing) == STAGES
        assert timing["inference"] > 0
        assert timing["total"] >= timing["decode"] + timing["inference"] + timing["encode"]
        assert response.headers["x-derain-model"] == client.get("/models").json()["models"][0]["name"]
        assert response.headers["x-derain-prompt"] == quote(PROMPT, safe="")
        assert int(response.headers["x-derain-batch-size"]) >= 1

    @pytest.mark.parametrize("given", ["", "x" * 129, "white space", "umläut"])
    def test_a_request_id_is_made_where_none_that_is_usable_comes(
        self, client: httpx.Client, png: bytes, given: str
    ) -> None:
        headers = httpx.Headers([("X-Request-ID", given)], encoding="utf-8")
        answers = [client.post("/derain", files={"image": png}, headers=headers) for _ in range(2)]
        ids = [answer.headers["x-request-id"] for answer in answers]
        assert ids[0] != ids[1]
        assert all(re.fullmatch(r"[0-9a-f]{32}", made) for made in ids)


class TestFormats:
    @pytest.mark.parametrize("sent", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "AVIF"])
    def test_an_image_goes_back_as_it_came(
        self, client: httpx.Client, photograph: Image.Image, encode: Encode, decode: Decode, sent: str
    ) -> None:
        response = client.post("/derain", files={"image": encode(photograph, sent)})
        assert decode(response.content).format == sent
        assert response.headers["content-type"] == f"image/{sent.lower()}"

    def test_heic_goes_back_as_heic_or_in_the_format_asked_for(
        self, client: httpx.Client, photograph: Image.Image, encode: Encode, decode: Decode
    ) -> None:
        sent = encode(photograph, "HEIF")
        response = client.post("/derain", files={"image": sent})
        assert response.headers["content-type"] == "image/heic"
        assert decode(response.content).size == photograph.size
        response = client.post("/derain", files={"image": sent}, headers={"Accept": "image/jpeg"})
        assert decode(response.content).format == "JPEG"

    @pytest.mark.parametrize("asked", ["png", "jpeg", "webp", "avif"])
    def test_unless_another_is_asked_for(
        self, client: httpx.Client, png: bytes, decode: Decode, asked: str
    ) -> None:
        response = client.post("/derain", files={"image": png}, data={"format": asked})
        assert decode(response.content).format == asked.upper()

    def test_or_only_another_is_accepted(self, client: httpx.Client, png: bytes, decode: Decode) -> None:
        response = client.post("/derain", files={"image": png}, headers={"Accept": "image/webp"})
        assert decode(response.content).format == "WEBP"


class TestWhatStays:
    """Everything about a photograph but its rain."""

    @pytest.mark.parametrize("size", [(1, 1), (7, 13), (13, 7), (8, 8), (481, 321), (257, 3)])
    def test_the_size(
        self, client: httpx.Client, make_image: Make, encode: Encode, decode: Decode, size: tuple[int, int]
    ) -> None:
        response = client.post("/derain", files={"image": encode(make_image(5, *size))})
        assert decode(response.content).size == size

    def test_transparency_and_colour_profile(
        self, client: httpx.Client, photograph: Image.Image, encode: Encode, decode: Decode
    ) -> None:
        alpha = Image.linear_gradient("L").resize(photograph.size)
        photograph = photograph.copy()
        photograph.putalpha(alpha)
        restored = decode(
            client.post("/derain", files={"image": encode(photograph, icc_profile=ICC)}).content
        )
        assert restored.mode == "RGBA"
        assert np.array_equal(np.asarray(restored)[..., 3], np.asarray(alpha))
        assert restored.info["icc_profile"] == ICC

    @pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
    def test_greyscale(
        self, client: httpx.Client, photograph: Image.Image, encode: Encode, decode: Decode, image_format: str
    ) -> None:
        response = client.post("/derain", files={"image": encode(photograph.convert("L"), image_format)})
        assert decode(response.content).mode == "L"

    def test_the_orientation_is_applied_once(
        self, client: httpx.Client, photograph: Image.Image, encode: Encode, decode: Decode
    ) -> None:
        exif = Image.Exif()
        exif[274] = 6
        turned = photograph.transpose(Image.Transpose.ROTATE_90)
        plain = decode(client.post("/derain", files={"image": encode(photograph)}).content)
        restored = decode(client.post("/derain", files={"image": encode(turned, exif=exif)}).content)
        assert restored.size == photograph.size
        assert restored.getexif().get(274, 1) == 1
        assert np.abs(np.asarray(restored).astype(int) - np.asarray(plain)).max() <= 1

    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    def test_sixteen_bits_a_sample(
        self, client: httpx.Client, photograph: Image.Image, encode: Encode, decode: Decode, suffix: str
    ) -> None:
        eight = np.asarray(photograph)
        random = np.random.default_rng(0)
        colour = (eight.astype(np.uint16) * 257 + random.integers(-100, 100, eight.shape)).astype(np.uint16)
        alpha = random.integers(0, 65536, (*eight.shape[:2], 1), dtype=np.uint16)
        deep = pyvips.Image.new_from_array(np.concatenate([colour, alpha], 2), interpretation="rgb16")
        sent = deep.write_to_buffer(suffix)
        fields = {"prompt": PROMPT}
        response = client.post("/derain", files={"image": sent}, data=fields)
        assert response.status_code == 200
        restored = pyvips.Image.new_from_buffer(response.content, "").numpy()
        assert (restored.dtype, restored.shape) == (np.uint16, (61, 90, 4))
        assert np.array_equal(restored[..., 3:], alpha)
        plain = decode(client.post("/derain", files={"image": encode(photograph)}, data=fields).content)
        # the noise that was added is far below a step of 8 bits
        assert np.abs(restored[..., :3] / 257 - np.asarray(plain)).mean() < 0.5
        assert len(np.unique(restored[..., :3])) > 1000, "the steps are those of 8 bits"

    def test_where_and_when_it_was_taken_unless_the_client_wants_that_dropped(
        self, client: httpx.Client, photograph: Image.Image, encode: Encode, decode: Decode
    ) -> None:
        exif = Image.Exif()
        exif[306] = "2026:01:01 00:00:00"
        exif.get_ifd(34853)[1] = "N"
        sent = encode(photograph, "JPEG", exif=exif, comment=b"wet", icc_profile=ICC)
        kept = decode(client.post("/derain", files={"image": sent}).content)
        assert kept.getexif()[306] == "2026:01:01 00:00:00"
        assert kept.getexif().get_ifd(34853) == {1: "N"}
        assert kept.info["comment"] == b"wet"
        for dropped in (
            client.post("/derain", files={"image": sent}, data={"metadata": "drop"}),
            client.post(
                "/derain", content=sent, headers={"Content-Type": "image/jpeg"}, params={"metadata": "drop"}
            ),
        ):
            bare = decode(dropped.content)
            assert (dict(bare.getexif()), bare.info.get("comment")) == ({}, None)
            assert bare.info["icc_profile"] == ICC


class TestPrompts:
    def test_without_a_prompt_the_service_perceives_one_and_says_so(
        self, client: httpx.Client, png: bytes
    ) -> None:
        perceived = client.post("/perceive", files={"image": png}).json()
        answer = client.post("/derain", files={"image": png}, headers={"Accept": "application/json"})
        assert answer.json()["perceived"] is True
        assert answer.json()["prompt"] == perceived["prompt"]
        assert unquote(answer.headers["x-derain-prompt"]) == perceived["prompt"]
        scores = {name: perceived[name] for name in ("types", "densities", "directions")}
        assert json.loads(answer.headers["x-derain-perception"]) == scores
        several = client.post("/derain", files=[("image", png), ("image", png)])
        assert "x-derain-perception" not in several.headers, "it would be of one of them"
        told = client.post("/derain", files={"image": png}, data={"prompt": PROMPT})
        assert "x-derain-perception" not in told.headers, "nothing was perceived"

    def test_the_prompt_reaches_the_network(self, client: httpx.Client, png: bytes) -> None:
        """Each pair of prompt and caption is looked up on its own: the second time it is known."""

        def looked_up(result: str) -> float:
            line = f'derain_text_cache_total{{result="{result}"}} '
            return float(re.search(re.escape(line) + r"(\S+)", client.get("/metrics").text)[1])  # pyright: ignore[reportOptionalSubscript]

        fields = {"prompt": "a prompt that no other test uses", "caption": "a harbour"}
        for expected in [(1, 0), (0, 1)]:
            misses, hits = looked_up("miss"), looked_up("hit")
            assert client.post("/derain", files={"image": png}, data=fields).status_code == 200
            assert (looked_up("miss") - misses, looked_up("hit") - hits) == expected

    def test_several_perceived_prompts_are_all_told(
        self, client: httpx.Client, make_image: Make, encode: Encode
    ) -> None:
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8))
        files = [encode(make_image(1, 160, 160)), encode(noise)]
        single = [client.post("/perceive", files={"image": file}).json()["prompt"] for file in files]
        answer = client.post("/derain", files=[("image", file) for file in files]).json()
        assert answer["prompt"] == (single[0] if single[0] == single[1] else "; ".join(single))


class TestPerceive:
    def test_scores_are_probabilities(self, client: httpx.Client, png: bytes) -> None:
        answer = client.post("/perceive", content=png, headers={"Content-Type": "image/png"}).json()
        assert set(answer) == {"prompt", "types", "densities", "directions", "model", "request_id"}
        for group in ("types", "densities", "directions"):
            assert sum(answer[group].values()) == pytest.approx(1.0, abs=1e-3)
        assert answer["prompt"]

    def test_one_image_at_a_time(self, client: httpx.Client, png: bytes) -> None:
        assert client.post("/perceive", files=[("image", png), ("image", png)]).status_code == 422
