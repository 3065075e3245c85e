// A step of a dense decoder in one call: norms, products, rotation, paged attention, gated MLP. Here only: the order of
// things, and which task computes what. The structs are those of `workers/kernels/library.py`.
//
// A step is some seven parallel loops a layer. A task writes what no other task of its loop touches, and each number is
// computed by one task in a fixed order, so neither the number of threads nor the batch changes a bit of the result.
#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <new>

#include "attention_check.h"
#include "attention_int8.h"
#include "linear.h"
#include "lora.h"
#include "rounding.h"
#include "threads.h"

namespace {

struct Layer {
    const float *attention_norm, *mlp_norm;
    Matrix q, k, v, out, gate, up, down;
};
enum { Q, K, V, ATTENTION_OUT, GATE, UP, MLP_DOWN, MATRICES };  // in an adapter's list

struct Model {
    int32_t layers, hidden, heads, kv_heads, head_dim, intermediate;  // of this rank
    int32_t vocabulary, first_id;                                     // of this rank: ids from first_id on
    float eps;
    int32_t reserved;
    const float* frequencies;  // [head_dim / 2]
    const float* final_norm;
    Matrix embedding, head;
    const Layer* layer;
};

struct Batch {
    int32_t tokens, rows;
    const int64_t *ids, *positions, *page_of, *offset_of;  // [tokens]
    const int64_t *row_starts, *row_context;               // [rows + 1], [rows]
    const int64_t *tables, *table_starts;                  // cells of all rows; [rows + 1]
    uint8_t* pages;                                        // K of this rank's first KV head, layer 0, cell 0
    int64_t cell, layer, value, kv_head;                   // bytes to the next cell, layer, from K to V, KV head
    int32_t page_tokens;
    Numbers numbers;                                       // of pages
    const Adapted* adapted;                                // tokens by adapter; those of none are in none
    int64_t adapters;
};

// Adds up what the ranks have, in place; null where there is one rank.
using Reduce = void (*)(float* data, int64_t count);

template <class T>
class Buffer {
  public:
    T* get(size_t count) {
        if (count > capacity_) {
            std::free(data_);
            capacity_ = count + count / 4;
            data_ = (T*)std::aligned_alloc(64, (capacity_ * sizeof(T) + 63) / 64 * 64);
            if (!data_) {
                capacity_ = 0;
                throw std::bad_alloc();
            }
        }
        return data_;
    }
    ~Buffer() { std::free(data_); }

  private:
    T* data_ = nullptr;
    size_t capacity_ = 0;
};

struct Piece {  // a task of attention, for each KV head
    int32_t row, first, tokens;  // tokens of the step; a decode row has one
    int64_t begin, end;          // keys
    int32_t partial;             // of a decode row: where its result is left; else -1
};

struct LowTask {  // a task of adapters, for each matrix
    const Low* low;
    const int32_t* tokens;
    int32_t count, first;  // tokens, and how many tokens of adapters are before them
};

// Where the time of steps goes, by what the calling thread does or waits for. In the order of `library.PARTS`.
enum Part { EMBED, NORM, QKV, ROTATE, ATTENTION, OUT, GATED, DOWN, HEAD, PARTS };

class Stopwatch {
  public:
    // What comes from now on is `part`; PARTS for nothing.
    void to(Part part) {
        timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        const int64_t ns = now.tv_sec * 1000000000ll + now.tv_nsec;
        if (part_ != PARTS) spent_[part_] += ns - since_;
        part_ = part;
        since_ = ns;
    }
    const int64_t* spent() const { return spent_; }

  private:
    Part part_ = PARTS;
    int64_t since_ = 0, spent_[PARTS] = {};
};

class Decoder {
  public:
    Decoder(const Model& model, int threads, Reduce reduce)
        : m_(model), threads_(threads), reduce_(reduce), scratch_(threads), gates_(threads),
          splits_(threads) {
        wide_ = m_.hidden > m_.intermediate ? m_.hidden : m_.intermediate;
        if (m_.heads * m_.head_dim > wide_) wide_ = m_.heads * m_.head_dim;
        note(m_.head);
        for (int i = 0; i < m_.layers; i++)
            for (const Matrix* each : {&m_.layer[i].q, &m_.layer[i].k, &m_.layer[i].v, &m_.layer[i].out,
                                       &m_.layer[i].gate, &m_.layer[i].up, &m_.layer[i].down})
                note(*each);
        for (int i = 0; i < m_.layers; i++) {
            const Matrix& k = m_.layer[i].k;
            if (k.bias) key_biases_.insert(key_biases_.end(), k.bias, k.bias + k.rows);
        }
        if (!key_biases_.empty()) key_biases_.insert(key_biases_.end(), LANES, 0.0f);  // a vector reads on behind the last
    }

    void forward(const Batch& batch, float* hidden) {
        b_ = &batch;
        const int tokens = batch.tokens, width = m_.hidden;
        const int heads = m_.heads, all = heads + 2 * m_.kv_heads, dim = m_.head_dim;
        float* x = x_.get((size_t)tokens * width);
        float* qkv = qkv_.get((size_t)tokens * all * dim);
        watch_.to(EMBED);
        embed(x);
        rotations();
        if (takes_out_biases()) angles();
        pieces();
        low_tasks(batch.adapted, batch.adapters, tokens);
        for (int l = 0; l < m_.layers; l++) {
            const Layer& layer = m_.layer[l];
            watch_.to(NORM);
            const Activations normed = activations(first_, width, tokens);
            each_token([&](int t) { norm(normed, t, x + (size_t)t * width, layer.attention_norm); });
            watch_.to(QKV);
            product({&layer.q, &layer.k, &layer.v}, normed, qkv, all * dim, false);
            adapt(normed, l, Q, 3, true, [&](int which, int t, int) {
                const int before = which == Q ? 0 : which == K ? heads : heads + m_.kv_heads;
                return qkv + ((size_t)t * all + before) * dim;
            });
            watch_.to(ROTATE);
            each_token([&](int t) { rotate_and_write(qkv + (size_t)t * all * dim, t, l); });
            watch_.to(ATTENTION);
            attention(qkv, all * dim, l);
            const Activations found = activations(first_, heads * dim, tokens);
            each_token([&](int t) { gather(found, t, qkv + (size_t)t * all * dim); });
            watch_.to(OUT);
            residual(layer.out, found, x, l, ATTENTION_OUT);
            watch_.to(NORM);
            const Activations again = activations(first_, width, tokens);
            each_token([&](int t) { norm(again, t, x + (size_t)t * width, layer.mlp_norm); });
            watch_.to(GATED);
            const Activations between = activations(gated_, m_.intermediate, tokens);
            gated(layer.gate, layer.up, again, between, l);
            watch_.to(DOWN);
            residual(layer.down, between, x, l, MLP_DOWN);
        }
        watch_.to(NORM);
        each_token([&](int t) { normalise(x + (size_t)t * width, m_.final_norm, hidden + (size_t)t * width); });
        watch_.to(PARTS);
    }

    void logits(const float* hidden, int rows, float* out, const Adapted* adapted, int adapters) {
        watch_.to(HEAD);
        low_tasks(adapted, adapters, rows);
        const Activations a = activations(first_, m_.hidden, rows);
        each_of(rows, [&](int t) { place(a, t, hidden + (size_t)t * m_.hidden); });
        product({&m_.head}, a, out, m_.head.rows, false);
        adapt(a, m_.layers, 0, 1, true, [&](int, int t, int) { return out + (size_t)t * m_.head.rows; });
        watch_.to(PARTS);
    }

    const int64_t* spent() const { return watch_.spent(); }

    void linear(const Matrix& matrix, const float* x, int tokens, float* out) {
        note(matrix);
        low_tasks_.clear();
        if (matrix.inputs > wide_) wide_ = matrix.inputs;
        const Activations a = activations(first_, matrix.inputs, tokens);
        each_of(tokens, [&](int t) { place(a, t, x + (size_t)t * matrix.inputs); });
        product({&matrix}, a, out, matrix.rows, false);
    }

  private:
    void note(const Matrix& matrix) { (matrix.integer() ? integers_ : floats_used_) = true; }

    // A task is some tokens: who takes one writes where the other threads read.
    template <class F>
    void each_of(int tokens, const F& f) {
        const int fair = tokens / (8 * threads_.count()), grain = fair < 1 ? 1 : fair > 16 ? 16 : fair;
        threads_.run((tokens + grain - 1) / grain, [&](int task, int) {
            const int end = (task + 1) * grain < tokens ? (task + 1) * grain : tokens;
            for (int t = task * grain; t < end; t++) f(t);
        });
    }

    template <class F>
    void each_token(const F& f) {
        each_of(b_->tokens, f);
    }

    struct Room {
        Buffer<int8_t> codes;
        Buffer<Notes> notes;
        Buffer<float> floats;
    };

    // Where a step's activations lie until the next call with the same `room`.
    Activations activations(Room& room, int inputs, int tokens) {
        Activations a{nullptr, nullptr, nullptr, inputs, tokens, integers_ && amx_pays(tokens)};
        const size_t cells = (size_t)a.cells() * tokens, behind = a.full ? FULL : 0;
        if (integers_) a.codes = room.codes.get((cells + behind) * CELL), a.notes = room.notes.get(cells + behind);
        if (floats_used_ || adapted()) a.floats = room.floats.get(cells * CELL);
        return a;
    }

    // Inputs [k, k + 32) of a token become what products read.
    void place(const Activations& a, const Place& at, int k, vf low, vf high) const {
        if (integers_) quantise(a, at, k, low, high);
        if (a.floats) place_floats(a, at, k, low, high);
    }

    void place(const Activations& a, int token, const float* x) const {
        const Place at(a, token);
        for (int k = 0; k < a.inputs; k += GROUP) place(a, at, k, load(x + k), load(x + k + LANES));
    }

    void embed(float* x) {
        const int width = m_.hidden;
        each_token([&](int t) {
            const int64_t id = b_->ids[t] - m_.first_id;
            if (id < 0 || id >= m_.vocabulary) std::memset(x + (size_t)t * width, 0, width * sizeof(float));
            else matrix_row(m_.embedding, (int)id, x + (size_t)t * width);
        });
        if (reduce_) reduce_(x, (int64_t)b_->tokens * width);
    }

    void rotations() {
        const int half = m_.head_dim / 2;
        float* cosines = cosines_.get((size_t)b_->tokens * half);
        float* sines = sines_.get((size_t)b_->tokens * half);
        each_token([&](int t) {
            for (int i = 0; i < half; i++) {
                const float angle = (float)b_->positions[t] * m_.frequencies[i];
                cosines[t * half + i] = std::cos(angle);
                sines[t * half + i] = std::sin(angle);
            }
        });
    }

    // Whether keys are written without their bias.
    bool takes_out_biases() const { return b_->numbers == Numbers::INT8 && !key_biases_.empty(); }
    const float* key_bias(int layer, int head) const {
        return key_biases_.data() + ((size_t)layer * m_.kv_heads + head) * m_.head_dim;
    }

    // Of all positions that attention sees, to whole stretches. Those that are there stay.
    void angles() {
        const int half = m_.head_dim / 2;
        const int64_t most = *std::max_element(b_->row_context, b_->row_context + b_->rows), known = known_angles_;
        const int64_t wanted = (most + SPLIT - 1) / SPLIT * SPLIT;
        if (wanted <= known) return;
        angles_.resize(wanted * m_.head_dim + LANES);
        threads_.run((int)(wanted - known) / SPLIT, [&](int task, int) {
            for (int64_t position = known + task * SPLIT, end = position + SPLIT; position < end; position++)
                for (int i = 0; i < half; i++) {
                    const float angle = (float)position * m_.frequencies[i];
                    angles_[position * m_.head_dim + i] = std::cos(angle);
                    angles_[position * m_.head_dim + half + i] = std::sin(angle);
                }
        });
        known_angles_ = wanted;
    }

    void normalise(const float* x, const float* weight, float* out) const {
        vf squares{};
        for (int i = 0; i < m_.hidden; i += LANES) squares = fma(load(x + i), load(x + i), squares);
        const vf scale = set1(1.0f / std::sqrt(sum(squares) / m_.hidden + m_.eps));
        for (int i = 0; i < m_.hidden; i += LANES) store(out + i, load(x + i) * scale * load(weight + i));
    }

    void norm(const Activations& a, int token, const float* x, const float* weight) {
        alignas(64) float normed[MAX_HIDDEN];
        normalise(x, weight, normed);
        place(a, token, normed);
    }

    bool adapted() const { return !low_tasks_.empty(); }

    // Cuts the tokens that have adapters into tasks.
    void low_tasks(const Adapted* adapted, int64_t adapters, int tokens) {
        low_tasks_.clear();
        int before = 0;
        for (int64_t i = 0; i < adapters; i++)
            for (int64_t from = 0; from < adapted[i].count; from += LOW_TILE) {
                const int64_t left = adapted[i].count - from;
                const int count = (int)(left < LOW_TILE ? left : LOW_TILE);
                low_tasks_.push_back({adapted[i].low, adapted[i].tokens + from, count, before});
                before += count;
            }
        if (!before) return;
        gate_and_up_.get((size_t)before * 2 * m_.intermediate);
        int32_t* numbers = number_of_.get(tokens);
        std::fill(numbers, numbers + tokens, -1);
        for (const LowTask& task : low_tasks_)
            for (int t = 0; t < task.count; t++) numbers[task.tokens[t]] = task.first + t;
    }

    // What adapters add to the products of `count` matrices of a layer from `first` on: `to(matrix, token, number)` is
    // where a token's outputs are, `number` its own among those that have adapters.
    template <class To>
    void adapt(const Activations& a, int layer, int first, int count, bool add, const To& to) {
        threads_.run((int)low_tasks_.size() * count, [&](int index, int) {
            const LowTask& task = low_tasks_[index / count];
            const int which = first + index % count;
            const Low& low = task.low[layer * MATRICES + which];
            const auto out = [&](int t) { return to(which, task.tokens[t], task.first + t); };
            if (low.rank) return low_product(low, a, task.tokens, task.count, out, add);
            if (add) return;
            for (int t = 0; t < task.count; t++) std::fill(out(t), out(t) + m_.intermediate, 0.0f);
        });
    }

    // Of a token, what its adapter adds to `GATE` or `UP`; null where it has none.
    const float* added(int token, int which) {
        if (!adapted() || number_of_.get(0)[token] < 0) return nullptr;
        return gate_and_up_.get(0) + ((size_t)number_of_.get(0)[token] * 2 + which - GATE) * m_.intermediate;
    }

    // out[token][...] = (or +=) the matrices' outputs, one after the other.
    void product(std::initializer_list<const Matrix*> matrices, const Activations& a, float* out, int stride, bool add) {
        int total = 0;
        for (const Matrix* each : matrices) total += each->blocks();
        const int at_once = a.at_once();
        shared_out(total, a, [&](int first, int end, int thread) {
            for (int from = 0; from < a.tokens; from += at_once)
                for (int i = first; i < end; i++)
                    product_block(matrices, i, a.part(from, at_once), scratch_[thread].get(0),
                                  out + (size_t)from * stride, stride, add);
        });
    }

    // The same for one block of all matrices, counted as if they were one.
    static void product_block(std::initializer_list<const Matrix*> matrices, int block, const Activations& a,
                              uint8_t* scratch, float* out, int stride, bool add) {
        const Matrix* const* matrix = matrices.begin();
        for (; block >= (*matrix)->blocks(); matrix++) {
            block -= (*matrix)->blocks();
            out += (*matrix)->rows;
        }
        const Matrix& w = **matrix;
        const int row = block * BLOCK;
        block_product(w, block, a, scratch, [&](const Place& at, vf low, vf high) {
            float* to = out + (size_t)at.token() * stride + row;
            put(w, row, low, to, add);
            put(w, row + LANES, high, to + LANES, add);
        });
    }

    // 16 outputs of a matrix from `row` on, some of which may be behind the last one.
    static void put(const Matrix& w, int row, vf value, float* to, bool add) {
        if (row + LANES <= w.rows) {
            if (w.bias) value += load(w.bias + row);
            store(to, add ? load(to) + value : value);
            return;
        }
        for (int r = 0; row + r < w.rows; r++) {
            const float v = value[r] + (w.bias ? w.bias[row + r] : 0.0f);
            to[r] = add ? to[r] + v : v;
        }
    }

    // silu(gate) * up: the 32 outputs of a token by a block are a group of the next product's inputs. A task has both
    // groups of a cell. Of few tokens some cells are taken at once: a longer stream of memory for either matrix.
    void gated(const Matrix& gate, const Matrix& up, const Activations& a, const Activations& out, int l) {
        if (adapted())
            adapt(a, l, GATE, 2, false, [&](int which, int, int number) {
                return gate_and_up_.get(0) + ((size_t)number * 2 + which - GATE) * m_.intermediate;
            });
        const int at_once = a.tokens > TILE ? 2 : 16;
        const size_t room = (size_t)a.tokens * BLOCK * at_once;
        for (auto& each : gates_) each.get(room);  // here, since a task has nobody who would hear that there is none
        shared_out(out.cells(), a, [&](int cell, int end, int thread) {
            uint8_t* scratch = scratch_[thread].get(0);
            float* gates = gates_[thread].get(room);
            for (int from = 2 * cell, to; from < 2 * end && from < gate.blocks(); from = to) {
                to = std::min({from + at_once, 2 * end, gate.blocks()});
                const auto kept = [&](int block, const Place& at) {
                    return gates + ((size_t)(block - from) * a.tokens + at.token()) * BLOCK;
                };
                for (int block = from; block < to; block++)
                    block_product(gate, block, a, scratch, [&](const Place& at, vf low, vf high) {
                        low = biased(gate, block * BLOCK, low), high = biased(gate, block * BLOCK + LANES, high);
                        if (const float* more = added(at.token(), GATE))
                            low += load(more + block * BLOCK), high += load(more + block * BLOCK + LANES);
                        store(kept(block, at), silu(low));
                        store(kept(block, at) + LANES, silu(high));
                    });
                for (int block = from; block < to; block++)
                    block_product(up, block, a, scratch, [&](const Place& at, vf low, vf high) {
                        low = biased(up, block * BLOCK, low), high = biased(up, block * BLOCK + LANES, high);
                        if (const float* more = added(at.token(), UP))
                            low += load(more + block * BLOCK), high += load(more + block * BLOCK + LANES);
                        place(out, at, block * BLOCK, load(kept(block, at)) * low,
                              load(kept(block, at) + LANES) * high);
                    });
            }
        });
    }

    static vf biased(const Matrix& w, int row, vf value) { return w.bias ? value + load(w.bias + row) : value; }
    static vf silu(vf x) { return x / (set1(1.0f) + exp(-x)); }

    // `f(from, to, thread)` for ranges of so many blocks, which get smaller: few, yet a thread whose core is taken away
    // leaves the others something to do until the end.
    template <class F>
    void shared_out(int blocks, const Activations& a, const F& f) {
        for (auto& each : scratch_) each.get(scratch_bytes(wide_, a));  // here: a task has nobody to tell
        const int least = a.tokens > TILE ? 1 : blocks / (threads_.count() * 16) + 1;
        cuts_.assign(1, 0);
        for (int left = blocks; left > 0;) {
            const int fair = left / (2 * threads_.count()), count = fair > least ? fair : left < least ? left : least;
            left -= count;
            cuts_.push_back(blocks - left);
        }
        threads_.run((int)cuts_.size() - 1, [&](int task, int thread) {
            const AmxUse use(a.full);
            f(cuts_[task], cuts_[task + 1], thread);
        });
    }

    // x += matrix * a, over all ranks.
    void residual(const Matrix& matrix, const Activations& a, float* x, int l, int which) {
        const size_t count = (size_t)b_->tokens * m_.hidden;
        float* share = reduce_ ? share_.get(count) : x;
        product({&matrix}, a, share, m_.hidden, !reduce_);
        adapt(a, l, which, 1, true, [&](int, int t, int) { return share + (size_t)t * m_.hidden; });
        if (!reduce_) return;
        reduce_(share, (int64_t)count);
        for (size_t i = 0; i < count; i++) x[i] += share[i];
    }

    // Rotates q (scaling it, for powers of two) and k, and writes k and v into their page.
    void rotate_and_write(float* qkv, int t, int l) {
        const int dim = m_.head_dim, half = dim / 2, heads = m_.heads, kv_heads = m_.kv_heads;
        const float *c = cosines_.get(0) + (size_t)t * half, *s = sines_.get(0) + (size_t)t * half;
        const float scale = 1.44269504f / std::sqrt((float)dim);
        for (int h = 0; h < heads + kv_heads; h++) {
            float *first = qkv + (size_t)h * dim, *second = first + half;
            if (takes_out_biases() && h >= heads) {
                const float* bias = key_bias(l, h - heads);
                for (int d = 0; d < dim; d++) first[d] -= bias[d];
            }
            const float by = h < heads ? scale : 1.0f;
            for (int i = 0; i < half; i++) {
                const float x = first[i], y = second[i];
                first[i] = (x * c[i] - y * s[i]) * by;
                second[i] = (x * s[i] + y * c[i]) * by;
            }
            if (b_->numbers != Numbers::INT8 || takes_out_biases()) continue;
            if (h < heads) spread_query(first, dim);
            else spread_key(first, dim);
        }
        uint8_t* page = b_->pages + b_->page_of[t] * b_->cell + l * b_->layer;
        for (int h = 0; h < kv_heads; h++) {
            const float *k = qkv + (size_t)(heads + h) * dim, *v = k + (size_t)kv_heads * dim;
            write(k, dim, t, page + h * b_->kv_head);
            write(v, dim, t, page + h * b_->kv_head + b_->value);
        }
    }

    // A token's key or value, where the `page` of its head begins.
    void write(const float* x, int dim, int t, uint8_t* page) const {
        const int64_t offset = b_->offset_of[t], from = offset * dim;
        if (b_->numbers == Numbers::INT8)
            ((float*)(page + (int64_t)b_->page_tokens * dim))[offset] = quantise_head(x, dim, (int8_t*)page + from);
        else if (b_->numbers == Numbers::FLOAT32) std::memcpy((float*)page + from, x, dim * sizeof(float));
        else
            for (int d = 0; d < dim; d += LANES) float_to_bf16((uint16_t*)page + from + d, load(x + d));
    }

    // Cuts the step's attention into tasks. A decode row is cut by splits of its keys, a chunk by its queries: tokens
    // times the heads of a group share their keys' way through the caches.
    void pieces() {
        const int group = m_.heads / m_.kv_heads, at_once = group < VECTORS ? VECTORS / group : 1;
        pieces_.clear();
        partials_ = 0;
        int64_t* partial_of = partial_of_.get(b_->tokens);
        for (int row = 0; row < b_->rows; row++) {
            const int first = (int)b_->row_starts[row], count = (int)b_->row_starts[row + 1] - first;
            const int64_t context = b_->row_context[row];
            for (int t = 0; t < count; t++) partial_of[first + t] = count == 1 ? partials_ : -1;
            if (count == 1)
                for (int64_t begin = 0; begin < context; begin += SPLIT)
                    pieces_.push_back({row, first, 1, begin, begin + SPLIT < context ? begin + SPLIT : context,
                                       partials_++});
            else
                for (int from = 0; from < count; from += at_once) {
                    const int n = count - from < at_once ? count - from : at_once;
                    pieces_.push_back({row, first + from, n, 0, context - count + from + n, -1});
                }
        }
    }

    // Leaves each query's result in its place in qkv; those of decode rows are left in partials, for `gather`.
    void attention(float* qkv, int stride, int l) {
        seen_.get((size_t)partials_ * m_.heads);
        for (auto& each : splits_) each.get(split_room(m_.head_dim));  // here: a task has nobody to tell
        if (b_->numbers == Numbers::FLOAT32) return attention_by<FloatTiles<false>>(qkv, stride, l);
        if (own_tiles() == Own::USED) return attention_by<OwnTiles>(qkv, stride, l);
        attention_by<FloatTiles<true>>(qkv, stride, l);
    }

    template <class Tiles>
    void attention_by(float* qkv, int stride, int l) {
        using Number = typename Tiles::Number;
        const int dim = m_.head_dim, width = padded(dim), group = m_.heads / m_.kv_heads, kv_heads = m_.kv_heads;
        threads_.run((int)pieces_.size() * kv_heads, [&](int task, int thread) {
            const FlushDenormals flush;
            [[maybe_unused]] const typename Tiles::Use use;
            const Piece& piece = pieces_[pieces_.size() - 1 - task / kv_heads];  // the long ones of a chunk first
            const int head = task % kv_heads;
            const Keys keys{b_->pages + l * b_->layer + head * b_->kv_head, b_->cell, b_->value,
                            b_->tables + b_->table_starts[piece.row], b_->page_tokens, dim, b_->numbers,
                            takes_out_biases() ? key_bias(l, head) : nullptr, angles_.data()};
            Number* room = (Number*)splits_[thread].get(0);
            for (int from = 0; from < piece.tokens * group; from += VECTORS) {
                alignas(64) Number queries[VECTORS * MAX_DIM];
                float* places[VECTORS];
                int64_t positions[VECTORS];
                const int all = piece.tokens * group - from, count = all < VECTORS ? all : VECTORS;
                for (int i = 0; i < count; i++) {
                    const int token = piece.first + (from + i) / group;
                    places[i] = qkv + (size_t)token * stride + (size_t)(head * group + (from + i) % group) * dim;
                    positions[i] = b_->positions[token];
                    Tiles::put_query(places[i], dim, queries + (size_t)i * width);
                }
                if (piece.partial >= 0) {
                    Seen* seen = seen_.get(0) + (size_t)piece.partial * m_.heads + head * group + from;
                    attend<Tiles>(keys, queries, positions, count, piece.begin, piece.end, room, seen);
                    continue;
                }
                Seen total[VECTORS], split[VECTORS];
                for (int i = 0; i < count; i++) total[i].clear(dim);
                for (int64_t begin = 0; begin < piece.end; begin += SPLIT) {
                    const int64_t end = begin + SPLIT < piece.end ? begin + SPLIT : piece.end;
                    attend<Tiles>(keys, queries, positions, count, begin, end, room, split);
                    for (int i = 0; i < count; i++)
                        if (positions[i] >= begin) merge(total[i], split[i], dim);
                }
                for (int i = 0; i < count; i++) finish(total[i], places[i]);
            }
        });
    }

    void finish(const Seen& seen, float* out) const {
        const vf by = set1(1.0f / seen.total);
        // A zero may have either sign, by what else the tile had; here it loses it.
        for (int d = 0; d < m_.head_dim; d += LANES) store(out + d, load(seen.values + d) * by + set1(0.0f));
    }

    // What attention found for a token becomes what the product reads; of a decode row, its splits are merged first.
    void gather(const Activations& a, int t, float* found) {
        const int dim = m_.head_dim;
        if (const int64_t first = partial_of_.get(0)[t]; first >= 0) {
            const FlushDenormals flush;
            const int64_t splits = b_->positions[t] / SPLIT + 1;
            for (int h = 0; h < m_.heads; h++) {
                Seen* seen = seen_.get(0) + first * m_.heads + h;
                for (int64_t s = 1; s < splits; s++) merge(*seen, seen[s * m_.heads], dim);
                finish(*seen, found + (size_t)h * dim);
            }
        }
        place(a, t, found);
    }

    static constexpr int MAX_HIDDEN = 16384;

    Model m_;
    Threads threads_;
    Reduce reduce_;
    Stopwatch watch_;
    const Batch* b_ = nullptr;
    int wide_ = 0, partials_ = 0;
    bool integers_ = false, floats_used_ = false;
    std::vector<Buffer<uint8_t>> scratch_;
    std::vector<Piece> pieces_;
    std::vector<Buffer<float>> gates_, splits_;
    Buffer<float> x_, qkv_, share_, cosines_, sines_, gate_and_up_;
    std::vector<LowTask> low_tasks_;
    Buffer<int32_t> number_of_;  // of each token among those that have adapters; -1 of the others
    Room first_, gated_;
    std::vector<int> cuts_;
    std::vector<float> key_biases_, angles_;  // [layer][kv head][head dim]; [position][head dim]
    int64_t known_angles_ = 0;
    Buffer<Seen> seen_;
    Buffer<int64_t> partial_of_;
};

}  // namespace

extern "C" {
// 0 where there was no memory for it; nothing else can fail.
void* headrace_create(const Model* model, int threads, Reduce reduce) {
    return new (std::nothrow) Decoder(*model, threads, reduce);
}
void headrace_destroy(void* decoder) { delete (Decoder*)decoder; }

int headrace_forward(void* decoder, const Batch* batch, float* hidden) {
    try {
        ((Decoder*)decoder)->forward(*batch, hidden);
        return 0;
    } catch (const std::bad_alloc&) {
        return -1;
    }
}
int headrace_logits(void* decoder, const float* hidden, int rows, float* out, const Adapted* adapted, int adapters) {
    try {
        ((Decoder*)decoder)->logits(hidden, rows, out, adapted, adapters);
        return 0;
    } catch (const std::bad_alloc&) {
        return -1;
    }
}
// By what attention on pages of bfloat16 is computed, and by what it is not since that gives other bits here, or "".
const char* headrace_attention() {
    return own_tiles() == Own::USED ? OwnTiles::NAME : FloatTiles<true>::NAME;
}
const char* headrace_refused() { return own_tiles() == Own::DIFFERENT ? OwnTiles::NAME : ""; }
// Nanoseconds by part, since it was created; they go on counting where they are.
const int64_t* headrace_spent(void* decoder) { return ((Decoder*)decoder)->spent(); }
int headrace_linear(void* decoder, const Matrix* matrix, const float* x, int tokens, float* out) {
    try {
        ((Decoder*)decoder)->linear(*matrix, x, tokens, out);
        return 0;
    } catch (const std::bad_alloc&) {
        return -1;
    }
}
int headrace_round(const Rounding* rounding, int begin, int end) {
    try {
        Rounder(*rounding).rows(begin, end);
        return 0;
    } catch (const std::bad_alloc&) {
        return -1;
    }
}
}
