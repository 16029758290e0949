"""What the analyses proved stands in the explanation, in the numbers of the call."""

from explain_specs import check, example, explained


def finding(e, name):
    return [f for f in e.findings if f.name == name]


def test_bounds_are_told_in_numbers():
    text = "attention a(cap: float = 7.0):\n require cap > 0\n score = cap * tanh(score / cap)\n"
    (found,) = finding(explained(check(text), 64, 64), "score bounds")
    assert found.reason == "abs(score) <= cap; here in [-7, 7]"


def test_the_call_s_scale_is_in_the_numbers():
    text = "attention a:\n q = l2_norm(q)\n k = l2_norm(k)\n"
    (found,) = finding(explained(check(text), 64, 64), "score bounds")
    assert found.reason.endswith("; here in [-0.125, 0.125]")


def test_closed_ranges_stand_in_text_and_page():
    e = explained(check("attention a(w: int = 9):\n mask = sliding_window(w)\n"), 64, 64)
    keys, rows = e.ranges
    assert keys.may == ("max(0, i0 - w + 1) .. i1",)
    assert rows.may == ("max(KV - Q, j0) .. w + j1 - 1",)
    assert "\nranges\n  keys of query rows [i0, i1]: max(0, i0 - w + 1) .. i1\n" in str(e)
    assert "  query rows of keys [j0, j1]: max(KV - Q, j0) .. w + j1 - 1\n" in str(e)
    page = e.to_html()
    assert "<code>max(0, i0 - w + 1) .. i1</code>" in page
    assert "<code>max(KV - Q, j0) .. w + j1 - 1</code>" in page


def test_no_ranges_where_there_is_no_mask():
    e = explained(check("attention a\n:"), 64, 64)
    assert not e.ranges
    assert "\nranges\n" not in str(e)


def test_tensors_and_their_reads_are_told():
    e = explained(example("document"), 64, 64)
    (lines,) = finding(e, "tensors judge tiles")
    assert "`doc[b, q_idx]` of each row; `doc[b, kv_idx]` of each column" in lines.reason
    reads = finding(e, "doc is read without a clamp")
    assert {(f.holds, f.reason) for f in reads} == {
        (False, "b proved (32 bits), q_idx clamped (32 bits)"),
        (False, "b proved (32 bits), kv_idx clamped (32 bits)"),
    }
    text = "attention a(s: float[HQ]):\n score = score + s[h]\n"
    (found,) = finding(explained(check(text), 64, 64), "s is read without a clamp")
    assert found.holds


def test_why_a_rule_did_not_apply_stands_among_the_rules():
    e = explained(check("attention a\n:"), 64, 64)
    assert {d.rule for d in e.declined} >= {"shift-invariance", "score-bounds"}
    for declined in e.declined:
        line = f"no  {declined.rule}: {declined.reason}"
        assert line in str(e)
        assert declined.reason in e.to_html()


def test_rows_that_are_never_empty():
    (found,) = finding(explained(check("attention a:\n mask = causal\n"), 64, 64), "non-empty rows")
    assert found.reason.startswith("a row keeps the first column if ")
    assert found.reason.endswith("every row does if KV > 0 and Q <= KV")
