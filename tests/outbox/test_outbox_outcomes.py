"""The outcome table, row by row (docs/design.md, Outbox)."""

from __future__ import annotations

import pytest

from holdfast import errors
from holdfast.outbox.outcomes import (
    Conflicted,
    Deferred,
    Delivered,
    Next,
    Rejected,
    compared,
    verdict,
    verdict_of_error,
)


@pytest.mark.parametrize("code", [200, 201, 202, 204, 299])
def test_success_counts_from_holdfast_and_must_be_shown_by_others(code: int) -> None:
    assert verdict(code, method="PUT", holdfast=True) == Delivered()
    assert verdict(code, method="PUT", holdfast=False) is Next.SHOW


@pytest.mark.parametrize("code", [409, 412])
@pytest.mark.parametrize("holdfast", [True, False])
def test_a_failed_precondition_is_no_conflict_before_the_state_was_read(code: int, holdfast: bool) -> None:
    assert verdict(code, method="PUT", holdfast=holdfast) is Next.COMPARE
    other = Conflicted("changed")
    assert compared(ours=True, left={"etag": '"1"'}, conflict=other) == Delivered({"etag": '"1"'})
    assert compared(ours=False, left=None, conflict=other) is other


@pytest.mark.parametrize("code", [404, 410])
def test_what_is_gone_is_deleted_and_cannot_be_put(code: int) -> None:
    assert verdict(code, method="DELETE", holdfast=False) == Delivered()
    assert isinstance(verdict(code, method="PUT", holdfast=False), Rejected)


@pytest.mark.parametrize("code", [401, 403, 407, 408, 423, 424, 425, 429])
def test_what_may_pass_is_deferred_and_never_dropped(code: int) -> None:
    found = verdict(code, method="PUT", holdfast=False, retry_after_s=7200.0)
    assert isinstance(found, Deferred)
    assert found.reached
    assert found.retry_after_s == 3600.0
    assert found.target == (code in (401, 407, 408, 429))


@pytest.mark.parametrize("code", [400, 402, 405, 406, 411, 413, 414, 415, 422, 451])
def test_other_refusals_are_final(code: int) -> None:
    assert isinstance(verdict(code, method="PUT", holdfast=False), Rejected)


@pytest.mark.parametrize("code", [100, 301, 302, 307, 500, 502, 503, 507, 599])
def test_redirects_and_failures_are_deferred_for_the_target(code: int) -> None:
    found = verdict(code, method="PUT", holdfast=False)
    assert isinstance(found, Deferred)
    assert found.target


@pytest.mark.parametrize("code", [200, 404, 400, 412, 500])
def test_an_unsigned_answer_where_holdfast_should_be_is_none(code: int) -> None:
    found = verdict(code, method="DELETE", holdfast=True, signed=False)
    assert isinstance(found, Deferred)
    assert (found.reached, found.target) == (False, True)


def test_errors_of_the_signed_client_mean_the_same() -> None:
    assert isinstance(verdict_of_error(errors.Unavailable("x")), Deferred)
    assert verdict_of_error(errors.Conflict("x")) is Next.COMPARE
    assert verdict_of_error(errors.Exists("x")) is Next.COMPARE
    assert isinstance(verdict_of_error(errors.BadRequest("x")), Rejected)
    assert isinstance(verdict_of_error(errors.Unauthorized("x")), Deferred)
    assert isinstance(verdict_of_error(errors.PacksGone("x")), Deferred)
    assert isinstance(verdict_of_error(errors.TooFewNodes("x")), Deferred)
    assert isinstance(verdict_of_error(errors.StaleEpoch("x")), Deferred)
    assert isinstance(verdict_of_error(errors.NoSpace("x")), Deferred)
    assert verdict_of_error(errors.NotFound("x"), method="DELETE") == Delivered()
    rest = verdict_of_error(errors.TooManyRequests("x", retry_after=99999))
    assert isinstance(rest, Deferred)
    assert rest.retry_after_s == 3600.0
