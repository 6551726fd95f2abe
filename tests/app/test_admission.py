"""Were these wrong, requests would be refused for no reason, or taken on and not answered in time."""

import pytest

from app.admission import Admission
from app.batching import AdmissionError


class TestAdmission:
    refusals: list[str]

    def make(self, *, backlog: float = 0.0) -> Admission:
        """One whose queue has so many seconds of work, and does a thousand pixels a second."""
        self.refusals = []
        return Admission(
            max_images=4,
            max_bytes=1000,
            backlog_seconds=lambda pixels: backlog + pixels / 1000,
            on_refusal=self.refusals.append,
        )

    def test_what_a_request_held_is_free_again_after_it(self) -> None:
        admission = self.make()
        with admission.admit() as ticket:
            ticket.add_bytes(900)
            ticket.add_images(4)
            assert (admission.requests, admission.images, admission.bytes) == (1, 4, 900)
        assert (admission.requests, admission.images, admission.bytes) == (0, 0, 0)

    def test_also_when_it_failed(self) -> None:
        admission = self.make()

        def fail() -> None:
            with admission.admit() as ticket:
                ticket.add_bytes(900)
                ticket.add_images(2)
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        assert (admission.requests, admission.images, admission.bytes) == (0, 0, 0)

    def test_places_are_free_as_soon_as_the_images_are_restored(self) -> None:
        admission = self.make()
        with admission.admit() as ticket:
            ticket.add_images(4)
            ticket.drop_images()
            with admission.admit() as next_ticket:
                next_ticket.add_images(4)
        assert admission.images == 0

    def test_bytes_are_bounded_over_all_requests(self) -> None:
        admission = self.make(backlog=7.2)
        with admission.admit() as first, admission.admit() as second:
            first.add_bytes(600)
            with pytest.raises(AdmissionError) as refused:
                second.add_bytes(401)
            assert (refused.value.reason, refused.value.retry_after) == ("bytes", 8)
            second.add_bytes(400)

    def test_an_upload_that_cannot_fit_is_refused_before_it_begins(self) -> None:
        admission = self.make()
        with admission.admit() as ticket:
            ticket.add_bytes(600)
            with pytest.raises(AdmissionError, match="bytes"), admission.admit(expected_bytes=500):
                pass
        assert admission.requests == 0

    def test_what_others_of_its_bytes_cost_is_refused_before_it_is_read(self) -> None:
        admission = self.make(backlog=6.0)
        with admission.admit(expected_bytes=100) as ticket:
            ticket.add_pixels(900, 10.0)
            ticket.drop_pixels()  # in the queue, say, and done
        admission.check(wait_seconds=10.0, expected_bytes=110)
        with pytest.raises(AdmissionError, match=r"would take 7\.1 seconds") as refused:
            admission.check(wait_seconds=10.0, expected_bytes=120)
        assert refused.value.reason == "backlog"
        assert refused.value.retry_after == 1

    def test_the_guess_is_by_the_least_compressed_of_the_last(self) -> None:
        admission = self.make(backlog=6.0)
        for announced, pixels in ((400, 800), (400, 400), (0, 10)):
            with admission.admit(expected_bytes=announced) as ticket:
                ticket.add_pixels(pixels, 10.0)
        admission.check(wait_seconds=10.0, expected_bytes=800)
        admission.check(wait_seconds=10.0, expected_bytes=200)
        for _ in range(40):
            with admission.admit(expected_bytes=400) as ticket:
                ticket.add_pixels(800, 10.0)
        admission.check(wait_seconds=10.0, expected_bytes=500)
        with pytest.raises(AdmissionError):
            admission.check(wait_seconds=10.0, expected_bytes=510)

    def test_what_is_of_another_length_tells_nothing(self) -> None:
        admission = self.make(backlog=6.0)
        for _ in range(40):
            with admission.admit(expected_bytes=10) as ticket:
                ticket.add_pixels(900, 10.0)
        with pytest.raises(AdmissionError):
            admission.check(wait_seconds=10.0, expected_bytes=20)
        admission.check(wait_seconds=10.0, expected_bytes=21)
        admission.check(wait_seconds=10.0, expected_bytes=4)

    def test_what_is_refused_tells_nothing(self) -> None:
        admission = self.make(backlog=6.0)
        with admission.admit(expected_bytes=100) as ticket, pytest.raises(AdmissionError):
            ticket.add_pixels(5000, 10.0)
        admission.check(wait_seconds=10.0, expected_bytes=100)

    def test_what_announces_nothing_is_not_guessed(self) -> None:
        admission = self.make(backlog=6.9)
        with admission.admit(expected_bytes=1) as ticket:
            ticket.add_pixels(60, 10.0)
            ticket.drop_pixels()
        admission.check(wait_seconds=10.0)
        with pytest.raises(AdmissionError):
            admission.check(wait_seconds=10.0, expected_bytes=2)

    def test_what_comes_alone_is_tried_whatever_is_guessed(self) -> None:
        admission = self.make()
        with admission.admit(expected_bytes=1) as ticket:
            ticket.add_pixels(10**6, 10.0)
            ticket.drop_pixels()
        admission.check(wait_seconds=10.0, expected_bytes=1)

    def test_images_are_bounded_over_all_requests(self) -> None:
        admission = self.make(backlog=8.0)
        with admission.admit() as first, admission.admit() as second:
            first.add_images(3)
            with pytest.raises(AdmissionError) as refused:
                second.add_images(2)
            # one place of four is missing, and a place gets free every two seconds
            assert (refused.value.reason, refused.value.retry_after) == ("queue", 2)
            assert self.refusals == ["queue"]
            second.add_images(1)
            with pytest.raises(AdmissionError, match="images"), admission.admit():
                pass

    def test_what_could_not_be_done_before_its_deadline_is_refused_at_once(self) -> None:
        admission = self.make(backlog=110.5)
        with pytest.raises(AdmissionError) as refused, admission.admit(wait_seconds=100):
            pass
        # until then it would take 110.5 seconds, and others may take up 70 of its 100
        assert (refused.value.reason, refused.value.retry_after) == ("backlog", 41)
        with admission.admit(wait_seconds=160):
            assert admission.requests == 1

    def test_work_that_is_not_queued_yet_counts(self) -> None:
        """A burst would be taken on as a whole otherwise: its images are all still being decoded."""
        admission = self.make()
        with admission.admit(wait_seconds=10) as first, admission.admit(wait_seconds=10) as second:
            first.add_pixels(6000, 10)
            with pytest.raises(AdmissionError) as refused:
                second.add_pixels(3000, 10)
            assert (refused.value.reason, refused.value.retry_after) == ("backlog", 2)
            first.drop_pixels()
            second.add_pixels(3000, 10)
            assert admission.backlog_seconds == 3
        assert admission.backlog_seconds == 0

    def test_what_comes_alone_is_tried_however_long_it_may_take(self) -> None:
        admission = self.make()
        with admission.admit(wait_seconds=1) as ticket:
            ticket.add_pixels(10**6, 1)

    def test_draining_turns_away_the_new_and_finishes_the_admitted(self) -> None:
        admission = self.make()
        with admission.admit() as ticket:
            admission.drain()
            with pytest.raises(AdmissionError) as refused, admission.admit():
                pass
            assert (refused.value.reason, refused.value.retry_after) == ("draining", 1)
            ticket.add_images(1)
            ticket.add_bytes(10)
            assert admission.requests == 1
