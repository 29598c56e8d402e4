"""Tiles in which each thread has some neighbouring channels of a position, for the block kernels.

A tile is (positions, groups, n): n channels of each thread, at most 8. With a halo there are three
tiles: some channels before those of the thread, its own, and as many after them. Windows of
channels are added up in a thread's registers.
"""

import triton
import triton.language as tl

WINDOW = 5
"""Size of the window of channels."""
REACH = tl.constexpr(2)
"""Channels of the window on each side of its middle."""


@triton.jit
def position_and_channel(
    channels: tl.constexpr, positions: tl.constexpr, groups: tl.constexpr, group: tl.constexpr
):
    """Return the number of this program's tile, its positions (n, 1, 1), and each thread's channel.

    Channels (1, n, 1) are the first ones of the threads.
    """
    block: tl.constexpr = groups * group
    blocks: tl.constexpr = (channels + block - 1) // block
    number = tl.program_id(0) // blocks
    channel = (tl.program_id(0) % blocks) * block + tl.arange(0, groups) * group
    return (
        number,
        (number * positions + tl.arange(0, positions))[:, None, None],
        channel[None, :, None],
    )


@triton.jit
def load(pointer, channel, live, tower: tl.constexpr, group: tl.constexpr, halo: tl.constexpr):
    """Load each thread's `group` channels, with `halo` more before and after them: three tiles.

    0 where `live` is false, and past the ends of a tower. Without a halo it is one tile.
    """
    tiles = (tl.load(pointer + (channel + tl.arange(0, group)), mask=live, other=0),)
    if halo > 0:
        before = live & (channel % tower >= group)
        after = live & (channel % tower < tower - group)
        at = pointer + (channel + tl.arange(0, halo))
        first = tl.load(at - halo, mask=before, other=0)
        last = tl.load(at + group, mask=after, other=0)
        tiles = (first, tiles[0], last)
    return tiles


@triton.jit
def activated(tiles, biases, relu: tl.constexpr, wide: tl.constexpr):
    """Convert tiles to the wide type, add the bias, round as the tiles were, and apply ReLU."""
    results = ()
    for i in tl.static_range(len(tiles)):
        value = tiles[i].to(wide)
        if biases is not None:
            value += biases[i].to(tiles[i].dtype).to(wide)
            value = value.to(tiles[i].dtype).to(wide)
        if relu:
            value = tl.maximum(value, 0, propagate_nan=tl.PropagateNan.ALL)
        results += (value,)
    return results


@triton.jit
def _even_and_odd(tile):
    half: tl.constexpr = tile.shape[2] // 2
    return tl.split(tl.reshape(tile, (tile.shape[0], tile.shape[1], half, 2)))


@triton.jit
def _split(tile):
    """Split a tile into its channels."""
    parts = (tile,)
    for _ in tl.static_range(3):
        if parts[0].shape[2] > 1:
            even, odd = (), ()
            for i in tl.static_range(len(parts)):
                first, second = _even_and_odd(parts[i])
                even += (first,)
                odd += (second,)
            parts = even + odd
    channels = ()
    for i in tl.static_range(len(parts)):
        channels += (tl.reshape(parts[i], (tile.shape[0], tile.shape[1])),)
    return channels


@triton.jit
def _join(channels, first: tl.constexpr, count: tl.constexpr):
    """Make a tile of `count` of the channels, from `first` on."""
    parts = ()
    for i in tl.static_range(first, first + count):
        parts += (channels[i],)
    for _ in tl.static_range(3):
        if len(parts) > 1:
            pairs = ()
            for i in tl.static_range(len(parts) // 2):
                pairs += (tl.join(parts[i], parts[i + len(parts) // 2]),)
            parts = pairs
    return tl.reshape(parts[0], (channels[0].shape[0], channels[0].shape[1], count))


@triton.jit
def window_sums(tiles, group: tl.constexpr, halo: tl.constexpr):
    """Add up the five channels around each: tiles with a halo of `halo`, from one of two more.

    Nothing is subtracted, so no digits cancel.
    """
    channels, pairs, sums = (), (), ()
    for i in tl.static_range(len(tiles)):
        channels += _split(tiles[i])
    for i in tl.static_range(len(channels) - 1):
        pairs += (channels[i] + channels[i + 1],)
    for i in tl.static_range(len(channels) - 4):
        sums += (pairs[i] + pairs[i + 2] + channels[i + 4],)
    results = (_join(sums, halo, group),)
    if halo > 0:
        results = (_join(sums, 0, halo), results[0], _join(sums, halo + group, halo))
    return results


@triton.jit
def nearest(tiles, halo: tl.constexpr):
    """Keep of three tiles those channels of the halo that are nearest to the thread's own."""
    before = _join(_split(tiles[0]), tiles[0].shape[2] - halo, halo)
    return before, tiles[1], _join(_split(tiles[2]), 0, halo)


@triton.jit
def norm_scales(
    values, alpha: tl.constexpr, k: tl.constexpr, group: tl.constexpr, halo: tl.constexpr
):
    """Return k + alpha * (sum of the squares) of tiles with a halo of `halo`, from two more."""
    squares, scales = (), ()
    for i in tl.static_range(len(values)):
        squares += (values[i] * values[i],)
    sums = window_sums(squares, group, halo)
    for i in tl.static_range(len(sums)):
        scales += (k + alpha * sums[i],)
    return scales


@triton.jit
def inverse_powers(scale, beta: tl.constexpr):
    """Return scale ** -beta and 1 / scale; for 0.75 two square roots suffice, which are fast."""
    if beta == 0.75:
        root = tl.rsqrt(scale)
        powers = root * tl.sqrt(root), root * root
    else:
        powers = tl.exp2(-beta * tl.log2(scale)), 1 / scale
    return powers
