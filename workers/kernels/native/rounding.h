// Floats to codes of 4 bits, with a scale and a minimum for each row and group of inputs; `workers/weights/rounding.py`
// says how and why. Sixteen rows at once, one in each lane, input after input.
#pragma once
#include "simd.h"
#include <cstdint>
#include <immintrin.h>
#include <memory>

// A run of inputs of a matrix. Field by field as in `workers/kernels/round.py`.
struct Rounding {
    int32_t inputs;           // of the run, a multiple of 32
    int32_t stride;           // inputs of the matrix
    const float* weights;     // [rows][stride], from the run's first input
    const float* importance;  // [inputs]: what a squared error counts
    const float* feedback;    // [inputs][inputs], unit upper triangular; null for none
    uint8_t* codes;           // [rows][stride], from the run's first input
    float *scales, *minimums; // [rows][stride / 32], from the run's first group
};

class Rounder {
  public:
    explicit Rounder(const Rounding& r) : r_(r), errors_(new vf[r.inputs]) {}

    void rows(int begin, int end) {
        for (int row = begin; row < end; row += LANES)
            for (int at = 0; at < r_.inputs; at += GROUP) group(row, end - row < LANES ? end - row : LANES, at);
    }

  private:
    static constexpr int GROUP = 32, TOP = 15, CUTS = 5;

    struct Grid {
        vf scale, minimum, error;
    };

    void group(int row, int lanes, int at) {
        const size_t first = (size_t)row * r_.stride + at, place = ((size_t)row * r_.stride + at) / GROUP;
        alignas(64) float lane[GROUP][LANES] = {};
        for (int i = 0; i < lanes; i++)
            for (int j = 0; j < GROUP; j++) lane[j][i] = r_.weights[first + (size_t)i * r_.stride + j];
        vf wanted[GROUP];
        for (int j = 0; j < GROUP; j++) wanted[j] = load(lane[j]);
        if (r_.feedback && at) {
            add_feedback<0>(wanted, at);
            add_feedback<GROUP / 2>(wanted, at);
        }
        const Grid grid = searched(wanted, r_.importance + at);
        const vf inverse = inverse_of(grid.scale);
        alignas(64) float code[GROUP][LANES], scale[LANES], minimum[LANES];
        for (int j = 0; j < GROUP; j++) {
            const vf found = code_of(wanted[j], grid.minimum, inverse);
            store(code[j], found);
            if (!r_.feedback) continue;
            const vf error = load(lane[j]) - fma(found, grid.scale, grid.minimum);
            errors_[at + j] = error;
            const float* by = r_.feedback + (size_t)(at + j) * r_.inputs + at;
            for (int k = j + 1; k < GROUP; k++) wanted[k] = fma(error, set1(by[k]), wanted[k]);
        }
        store(scale, grid.scale);
        store(minimum, grid.minimum);
        for (int i = 0; i < lanes; i++) {
            for (int j = 0; j < GROUP; j++) r_.codes[first + (size_t)i * r_.stride + j] = (uint8_t)code[j][i];
            r_.scales[place + (size_t)i * (r_.stride / GROUP)] = scale[i];
            r_.minimums[place + (size_t)i * (r_.stride / GROUP)] = minimum[i];
        }
    }

    // What rounding the inputs before `at` did to the outputs is wanted of half a group; its sums stay in registers.
    template <int HALF>
    void add_feedback(vf* wanted, int at) const {
        vf sums[GROUP / 2];
        for (int j = 0; j < GROUP / 2; j++) sums[j] = wanted[HALF + j];
        for (int i = 0; i < at; i++) {
            const float* by = r_.feedback + (size_t)i * r_.inputs + at + HALF;
            const vf error = errors_[i];
            for (int j = 0; j < GROUP / 2; j++) sums[j] = fma(error, set1(by[j]), sums[j]);
        }
        for (int j = 0; j < GROUP / 2; j++) wanted[HALF + j] = sums[j];
    }

    // From the whole range to one that is two steps shorter; each with what least squares makes of its codes.
    static Grid searched(const vf* w, const float* importance) {
        vf least = w[0], greatest = w[0], sum = {};
        float total = 0;
        for (int j = 0; j < GROUP; j++) {
            least = where_less(w[j], least, w[j], least);
            greatest = where_less(greatest, w[j], w[j], greatest);
            sum = fma(w[j], set1(importance[j]), sum);
            total += importance[j];
        }
        Grid best = {half((greatest - least) * set1(1.0f / TOP)), half(least), {}};
        best.error = error_of(w, importance, best);
        const vf span = inverse_of(greatest - least), all = set1(total), by_all = inverse_of(all);
        for (int cut = 0; cut < CUTS; cut++) {
            const vf finer = span * set1(TOP + 0.5f * cut);
            vf first = {}, second = {}, product = {};
            for (int j = 0; j < GROUP; j++) {
                const vf code = code_of(w[j], least, finer), weighted = code * set1(importance[j]);
                first += weighted;
                second = fma(weighted, code, second);
                product = fma(weighted, w[j], product);
            }
            Grid other;
            other.scale = half((all * product - first * sum) * inverse_of(all * second - first * first));
            other.minimum = half((sum - other.scale * first) * by_all);
            other.error = error_of(w, importance, other);
            other.error = where_less(vf{}, other.scale, other.error, best.error);
            best.scale = where_less(other.error, best.error, other.scale, best.scale);
            best.minimum = where_less(other.error, best.error, other.minimum, best.minimum);
            best.error = where_less(other.error, best.error, other.error, best.error);
        }
        return best;
    }

    static vf error_of(const vf* w, const float* importance, const Grid& grid) {
        const vf inverse = inverse_of(grid.scale);
        vf error = {};
        for (int j = 0; j < GROUP; j++) {
            const vf missed = fma(code_of(w[j], grid.minimum, inverse), grid.scale, grid.minimum) - w[j];
            error = fma(missed * set1(importance[j]), missed, error);
        }
        return error;
    }

    static vf code_of(vf w, vf minimum, vf inverse) {
        const vf code = (w - minimum) * inverse, top = set1(TOP), magic = set1(12582912.0f);
        const vf inside = where_less(vf{}, code, where_less(code, top, code, top), vf{});  // 0 of what is no number
        return (inside + magic) - magic;
    }

    static vf inverse_of(vf v) {
        const vf one = set1(1.0f) / v, zero = {};
        return where_less(v, zero, one, where_less(zero, v, one, zero));
    }

    // To the nearest float16.
    static vf half(vf v) {
        alignas(64) float lane[LANES];
        store(lane, v);
        for (float& x : lane) x = _cvtsh_ss(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT));
        return load(lane);
    }

    const Rounding& r_;
    std::unique_ptr<vf[]> errors_;
};
