from scm_trio.chat.foretold import FORETOLD_S, MAX_PER_USER, Foretold


def test_a_cancel_is_its_users_own():
    foretold = Foretold()
    foretold.add("ann", "r1", 0.0)
    assert foretold.has("ann", "r1")
    assert not foretold.has("ann", "r2")
    assert not foretold.has("bob", "r1")


def test_it_is_forgotten_after_a_while():
    foretold = Foretold()
    foretold.add("ann", "r1", 0.0)
    foretold.add("ann", "r2", 1.0)
    foretold.sweep(FORETOLD_S)
    assert (foretold.has("ann", "r1"), foretold.has("ann", "r2")) == (False, True)
    foretold.sweep(FORETOLD_S + 1)
    assert foretold._by_user == {}


def test_of_each_user_the_newest_are_remembered():
    foretold = Foretold()
    foretold.add("bob", "r0", 0.0)
    for number in range(MAX_PER_USER):
        foretold.add("ann", f"r{number}", 0.0)
    foretold.add("ann", "r0", 0.0)  # said again, it is the newest
    foretold.add("ann", "more", 0.0)
    assert [foretold.has("ann", name) for name in ("r0", "r1", "r2", "more")] == [True, False, True, True]
    assert foretold.has("bob", "r0")
