// Products of many tokens by AMX: sixteen tokens by sixteen rows, 32 inputs an instruction. Here only: what is different
// from `linear.h`, which is where the integers are added up.
//
// The integers of 32 inputs are exact in any order, and the floats are summed in the order of `integer_tile`: the bits are
// the same. A product of tiles leaves its sums in memory, from where the vectors scale and add them up. On Emerald Rapids a
// tile's product, storing it and what the vectors do take about as long as each other, and hardly go on beside each other
// (7, 6 and 9 ns of 25), however they are interleaved; more tiles of sums to a load of operands don't help either.
//
// Inputs are taken in segments, whose codes and activations stay in the first cache. The weights' codes are unpacked to
// signed bytes, a segment at a time for all tokens, so that there is nothing to correct by the offset.
#pragma once
#include "amx.h"
#include "packed.h"

#if defined(__AMX_INT8__)
#include <optional>

constexpr int SEGMENT = 16;              // groups of inputs, an even number
constexpr int TILE_BYTES = 8 * 64;       // codes of 16 rows and 32 inputs
constexpr int LEAST_TOKENS = 9;          // that a tile pays for: measured, see benchmarks/kernels.py

static inline bool amx_pays(int tokens) { return tokens >= LEAST_TOKENS && Amx::allowed(); }

// The calling thread's tiles, set up where they are wanted: 0 and 1 activations, 2 and 3 weights, 4 to 7 sums.
class AmxUse {
  public:
    explicit AmxUse(bool wanted) {
        if (!wanted) return;
        Amx::Config config;
        for (int i = 0; i < 8; i++) config.tile(i, i == 2 || i == 3 ? 8 : FULL, i < 2 ? GROUP : 64);
        use_.emplace(config);
    }

  private:
    std::optional<Amx::Use> use_;
};

// Of a thread: tokens' totals, and the codes of a segment, where 16 inputs to a scale take a tile of their own.
static inline size_t scratch_bytes(int inputs, const Activations& a) {
    const size_t totals = (size_t)(a.tokens + FULL) * BLOCK * sizeof(float);
    return a.full ? totals + SEGMENT * HALVES * 2 * TILE_BYTES : (size_t)inputs * BLOCK;
}

// Codes to tiles: [group][half][part][operand][64], signed. A part's tile is zero where the other's inputs are.
template <int BITS, int PER, bool MINS>
INLINE void unpack_tiles(const uint8_t* record, int groups, int offset, uint8_t* out) {
    constexpr int PARTS = GROUP / PER, OPERANDS = 8 / PARTS;
    for (int g = 0; g < groups; g++, record += record_bytes(BITS, PER, MINS))
#pragma GCC unroll 2
        for (int half = 0; half < HALVES; half++)
#pragma GCC unroll 2
            for (int part = 0; part < PARTS; part++)
#pragma GCC unroll 8
                for (int i = 0; i < 8; i++, out += 64) {
                    const bool within = i / OPERANDS == part;
                    store_bytes(out, within ? operand<BITS>(record, i, half) - (uint8_t)(MINS ? 0 : offset) : vb{});
                }
}

// Sums of the products of 16 tokens by 16 rows: 32 inputs, or the `part` of them whose tile this is. `TURN`s take turns.
template <int PARTS, int TURN>
INLINE void multiply(const int8_t* x, const uint8_t* codes, int32_t* sums) {
    if constexpr (TURN == 0) {
        _tile_loadd(0, x, CELL);
        _tile_loadd(2, codes, 64);
        _tile_zero(4);
        _tile_dpbssd(4, 0, 2);
        _tile_stored(4, sums, 64);
        if constexpr (PARTS == 2) {
            _tile_loadd(3, codes + TILE_BYTES, 64);
            _tile_zero(5);
            _tile_dpbssd(5, 0, 3);
            _tile_stored(5, sums + FULL * LANES, 64);
        }
    } else {
        _tile_loadd(1, x, CELL);
        _tile_loadd(3, codes, 64);
        _tile_zero(6);
        _tile_dpbssd(6, 1, 3);
        _tile_stored(6, sums, 64);
        if constexpr (PARTS == 2) {
            _tile_loadd(2, codes + TILE_BYTES, 64);
            _tile_zero(7);
            _tile_dpbssd(7, 1, 2);
            _tile_stored(7, sums + FULL * LANES, 64);
        }
    }
}

// A segment of a tile of tokens by 16 rows, onto `totals` [token][32]. N: tokens, or a few more, which come to nothing.
// `scales`: of the first group and this half; the next group's are a RECORD further on.
template <int PARTS, bool MINS, int N>
static void tile_segment(
    const uint8_t* codes, const uint8_t* scales, int record, int groups, const int8_t* x, const Notes* notes, int tokens,
    float* totals) {
    constexpr int RING = PARTS == 2 ? 8 : 16;  // under way: what a tile has just stored is slow to load
    constexpr int STEP = HALVES * PARTS * TILE_BYTES;
    alignas(64) int32_t ring[RING][PARTS * FULL * LANES];
    const auto begin = [&](int g) {
        const int8_t* at = x + (size_t)(g / 2) * tokens * CELL;
        if (g % 2) multiply<PARTS, 1>(at + GROUP, codes + g * STEP, ring[g % RING]);
        else multiply<PARTS, 0>(at, codes + g * STEP, ring[g % RING]);
    };
    vf sums[N];
#pragma GCC unroll 16
    for (int t = 0; t < N; t++) sums[t] = load(totals + t * BLOCK);
    for (int g = 0; g < groups && g < RING - 1; g++) begin(g);
    for (int g = 0; g < groups; g++, scales += record) {
        if (g + RING - 1 < groups) begin(g + RING - 1);
        const int32_t* found = ring[g % RING];
        const uint16_t* at = (const uint16_t*)scales;
        const vf first = half_to_float(at), second = PARTS == 2 ? half_to_float(at + BLOCK) : vf{};
        const vf low = MINS ? half_to_float(at + PARTS * BLOCK) : vf{};
        const Notes* of = notes + (size_t)(g / 2) * tokens;
        const int which = g % 2;
#pragma GCC unroll 16
        for (int t = 0; t < N; t++) {
            vi one, other;
            std::memcpy(&one, found + t * LANES, sizeof(one));
            vf weighted = to_float(one) * first;
            if constexpr (PARTS == 2) {
                std::memcpy(&other, found + (FULL + t) * LANES, sizeof(other));
                weighted = fma(to_float(other), second, weighted);
            }
            sums[t] = fma(weighted, set1(of[t].scales[which]), sums[t]);
            if constexpr (MINS) sums[t] = fma(low, set1(of[t].shares[which]), sums[t]);
        }
    }
#pragma GCC unroll 16
    for (int t = 0; t < N; t++) store(totals + t * BLOCK, sums[t]);
}

template <int PARTS, bool MINS, class... A>
INLINE void tile_segment_of(int n, const A&... rest) {
    switch ((n + 3) / 4) {
        case 1: return tile_segment<PARTS, MINS, 4>(rest...);
        case 2: return tile_segment<PARTS, MINS, 8>(rest...);
        case 3: return tile_segment<PARTS, MINS, 12>(rest...);
        default: return tile_segment<PARTS, MINS, 16>(rest...);
    }
}

// All tokens by a block of rows. `scratch`: `scratch_bytes`.
template <int BITS, int PER, bool MINS>
static void amx_block(
    const Matrix& m, const uint8_t* record, const Activations& a, uint8_t* scratch, const Finish& finish) {
    constexpr int PARTS = GROUP / PER, RECORD = record_bytes(BITS, PER, MINS);
    const Tiles tiles(a);
    const int groups = m.inputs / GROUP;
    uint8_t* codes = scratch;
    float* totals = (float*)(scratch + SEGMENT * HALVES * PARTS * TILE_BYTES);
    std::memset(totals, 0, (size_t)(a.tokens + FULL) * BLOCK * sizeof(float));
    for (int from = 0; from < groups; from += SEGMENT, record += SEGMENT * RECORD) {
        const int count = groups - from < SEGMENT ? groups - from : SEGMENT;
        unpack_tiles<BITS, PER, MINS>(record, count, m.offset, codes);
        asm volatile("" ::: "memory");  // the compiler does not know that tiles are loaded from memory
        for (int tile = 0; tile < tiles.count; tile++) {
            const int begin = tiles.begin(tile), n = tiles.tokens(tile);
            const size_t cell = (size_t)begin * a.cells() + (size_t)(from / 2) * n;
            for (int half = 0; half < HALVES; half++)
                tile_segment_of<PARTS, MINS>(
                    n, codes + half * PARTS * TILE_BYTES, record + code_bytes(BITS) + half * LANES * 2, RECORD, count,
                    a.codes + cell * CELL, a.notes + cell, n, totals + (size_t)begin * BLOCK + half * LANES);
        }
    }
    for (int tile = 0; tile < tiles.count; tile++) {
        const int begin = tiles.begin(tile), n = tiles.tokens(tile);
        for (int t = 0; t < n; t++) {
            const float* of = totals + (size_t)(begin + t) * BLOCK;
            finish(Place(begin, n, t), load(of), load(of + LANES));
        }
    }
}

#else  // a processor without

static inline bool amx_pays(int) { return false; }
struct AmxUse {
    explicit AmxUse(bool) {}
};
static inline size_t scratch_bytes(int inputs, const Activations&) { return (size_t)inputs * BLOCK; }
template <int BITS, int PER, bool MINS>
INLINE void amx_block(const Matrix&, const uint8_t*, const Activations&, uint8_t*, const Finish&) {}

#endif
