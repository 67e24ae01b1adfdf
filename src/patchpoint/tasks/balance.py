"""As many prompts of each group as of every other."""

from collections.abc import Sequence


def balanced(groups: Sequence[str], n: int) -> list[int]:
    """Numbers of `n` candidates, or of all, as equal in number per group as there are; in their order.

    Of each group its first ones are taken. A group with fewer than its share gives all it has, the others make up
    for it; where shares cannot be equal, the groups that came first have one more.
    """
    by_group: dict[str, list[int]] = {}
    for number, group in enumerate(groups):
        by_group.setdefault(group, []).append(number)
    taken: list[int] = []
    depth = 0
    while len(taken) < min(n, len(groups)):
        layer = [members[depth] for members in by_group.values() if depth < len(members)]
        taken += layer[: n - len(taken)]
        depth += 1
    return sorted(taken)


def shares_filled(accepted: dict[str, int], seen: dict[str, int], n: int, most: int) -> bool:
    """Whether looking at further candidates could no longer balance `n` prompts better.

    Every group has its equal share, or is given up: even at the upper end of the 95% interval of its rate
    ((accepted + 3) / seen, the rule of three) it would not fill it among `most` candidates in all.
    """
    if not seen:
        return False
    share = -(-n // len(seen))
    missing = sum(max(0, share - accepted.get(group, 0)) for group in seen)
    if missing == 0:
        return True
    hopeful = [
        group
        for group, looked in seen.items()
        if accepted.get(group, 0) < share
        and (accepted.get(group, 0) + 3) / looked * (most / len(seen)) >= share
    ]
    return not hopeful and sum(accepted.values()) >= n
