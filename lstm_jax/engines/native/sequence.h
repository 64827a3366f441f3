// A recurrent layer over a whole sequence, forward and backward. What a cell computes from its
// pre-activations comes as a function over vectors of units, generated and compiled by itself.
//
//   T steps, B examples, D inputs, H units, N pre-activations a unit, P parameters a unit.
//   Units go in groups of LANES; a group's pre-activations are one panel of N * LANES columns:
//   first those that see only x, then both, then those that see only h.
//
//   A cell whose units see only themselves goes group by group. One that sums over units takes whole
//   rows: all products of a few rows first, then what becomes of them.
#pragma once
#include <sched.h>
#include <stdlib.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>

#include "lanes.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace native {

constexpr int MOST = 12;   // rows of a tile
constexpr int WIDEST = 6;  // pre-activations of one product
#if LANES == 8
constexpr int REGISTERS = 16;
#else
constexpr int REGISTERS = 32;
#endif
constexpr int tile_rows(int vectors) { return std::min(MOST, (REGISTERS - 1) / (vectors + 1)); }
constexpr int BACK = REGISTERS == 16 ? 5 : 12;  // rows of a tile of two vectors, going back

// What a cell makes of rows of `groups` groups of units, the last of `last` units.
typedef void Point(long rows, long groups, long last, float* spill, const Stream* streams);
struct Cell {
  Point *keep, *plain, *back;
};

// Memory ---------------------------------------------------------------------------------------

inline void huge_pages(void* p, size_t bytes) {
#ifdef __linux__
  const uintptr_t page = 1 << 21, from = ((uintptr_t)p + page - 1) & ~(page - 1);
  const uintptr_t to = ((uintptr_t)p + bytes) & ~(page - 1);
  if (to > from) madvise((void*)from, to - from, MADV_HUGEPAGE);
#else
  (void)p, (void)bytes;
#endif
}

// Kept by each thread from call to call: fresh memory costs a page fault every 4 KiB.
struct Scratch {
  float* p = nullptr;
  size_t size = 0;
  ~Scratch() { free(p); }
  float* get(size_t floats) {
    if (floats <= size) return p;
    free(p);
    size_t bytes = ((floats + 64) * 4 + (1 << 21) - 1) >> 21 << 21;
    p = bytes > 0 ? (float*)aligned_alloc(1 << 21, bytes) : nullptr;
    size = p ? floats : 0;
    if (p) huge_pages(p, bytes);
    return p;
  }
};

// Takes consecutive pieces of a scratch buffer, each on a cache line; `base` null only counts.
struct Pieces {
  float* base;
  size_t used = 0;
  float* take(size_t floats) {
    float* p = base ? base + used : nullptr;
    used += (floats + 15) / 16 * 16;
    return p;
  }
};

// Team -----------------------------------------------------------------------------------------

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}
// Spins a while, then lets others run: a partner may wait for this very core.
template <class F>
inline void until(F ready) {
  for (int turn = 0; !ready(); turn++) turn < 400 ? relax() : (void)sched_yield();
}

typedef bool Schedule(void* pool, void (*task)(void*), void* data);

// Threads lent by a pool for one call. Who is not there soon, as calls go, is not waited for: a core
// that slept long may need longer to wake than a small call takes.
struct Team {
  typedef void Work(void* arg, int id, Team& team);
  Work* work;
  void* arg;
  int size = 1;
  std::atomic<int> refs{1}, asked{0}, joined{0}, go{0}, done{0};
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<int> round{0};
  static constexpr int CLOSED = 1 << 20;

  void meet() {
    if (size == 1) return;
    int now = round.load(std::memory_order_relaxed);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
      arrived.store(0, std::memory_order_relaxed);
      round.store(now + 1, std::memory_order_release);
    } else {
      until([&] { return round.load(std::memory_order_acquire) != now; });
    }
  }
  void drop() {
    if (refs.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }
  static void help(void* data) {
    Team& team = *(Team*)data;
    int id = team.joined.fetch_add(1, std::memory_order_acq_rel) + 1;
    if (id < CLOSED) {
      until([&] { return team.go.load(std::memory_order_acquire) != 0; });
      team.work(team.arg, id, team);
      team.done.fetch_add(1, std::memory_order_acq_rel);
    }
    team.drop();
  }
};

inline void run_team(Team::Work* work, void* arg, int threads, int64_t products,
                     Schedule* schedule, void* pool) {
  Team* team = new Team{work, arg};
  int asked = 0;
  for (int k = 1; k < threads && schedule; k++) {
    team->refs.fetch_add(1, std::memory_order_relaxed);
    if (schedule(pool, Team::help, team)) asked++;
    else team->refs.fetch_sub(1, std::memory_order_relaxed);
  }
  const int64_t patience = std::max<int64_t>(2000, products >> 16);  // turns: some percent at most
  for (int64_t turn = 0; turn < patience && team->joined.load(std::memory_order_acquire) < asked;
       turn++)
    turn % 64 == 63 ? (void)sched_yield() : relax();
  team->size = team->joined.fetch_add(Team::CLOSED, std::memory_order_acq_rel) + 1;
  team->go.store(1, std::memory_order_release);
  work(arg, 0, *team);
  until([&] { return team->done.load(std::memory_order_acquire) == team->size - 1; });
  team->drop();
}

// Shapes and arrays ------------------------------------------------------------------------------

constexpr int MANY = 32;  // carries, notes, pre-activations at most
struct Note {
  int64_t t, b, u;  // floats from step to step, example to example, unit to unit: 0 where alike
};
struct Plan {
  int64_t T, B, D, H, reverse, keep, threads, inside, wants_x, N, only_x, both;
  int64_t carries, fed, same, params, notes, saved, rows, mixes, spilled;
  int64_t of_z[MANY], of_r[MANY], straight[MANY];  // columns of z and r; carry seen beside R
  Note note[MANY];

  int64_t groups() const { return (H + LANES - 1) / LANES; }
  int64_t last() const { return H - (groups() - 1) * LANES; }
  int64_t zs() const { return only_x + both; }
  int64_t rs() const { return N - only_x; }
  int64_t products() const { return T * B * H * N * (H + (inside ? D : 0)); }
  int64_t nth(int64_t t) const { return reverse ? T - 1 - t : t; }
  // Residuals: what the cell saves, the carries, the fed carry where it is not the output.
  int64_t kept_cells() const { return T * groups() * B * saved * LANES; }
  int64_t kept_carry() const { return T * groups() * B * LANES; }
  int64_t kept() const {
    int64_t apart = carries - (fed >= 0);
    return kept_cells() + apart * kept_carry() + (fed >= 0 && !same ? T * B * H : 0);
  }
};
struct Arrays {
  const float *x, *W, *b, *z, *R, *carry[MANY], *param, *note[MANY];
  float *y, *last[MANY], *kept;
  const float *dy, *dlast[MANY];
  float *dx, *dW, *db, *dz, *dR, *dcarry[MANY], *dparam;
};

struct Share {
  int64_t from, to;
};
inline Share share(int64_t n, int id, int size) { return {n * id / size, n * (id + 1) / size}; }
// Rows in even tiles of at most so many.
struct Tiles {
  Share rows;
  int64_t most;
  int64_t count() const { return (rows.to - rows.from + most - 1) / most; }
  int64_t from(int64_t k) const { return rows.from + (rows.to - rows.from) * k / count(); }
  int64_t size(int64_t k) const { return from(k + 1) - from(k); }
};

// Products ---------------------------------------------------------------------------------------

// acc [ROWS, N vectors] += A [ROWS, K] P [K, N vectors]; rows of acc lie `step` floats apart.
template <int ROWS, int N>
void product(float* acc, long step, const float* A, long lda, const float* P, long K) {
  V sum[ROWS][N];
#pragma GCC unroll 16
  for (int m = 0; m < ROWS; m++)
#pragma GCC unroll 8
    for (int j = 0; j < N; j++) sum[m][j] = load(acc + m * step + j * LANES);
  for (long k = 0; k < K; k++) {
    V b[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; j++) b[j] = load(P + (k * N + j) * LANES);
#pragma GCC unroll 16
    for (int m = 0; m < ROWS; m++) {
      V a = all(A[m * lda + k]);
#pragma GCC unroll 8
      for (int j = 0; j < N; j++) sum[m][j] += a * b[j];
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < ROWS; m++)
#pragma GCC unroll 8
    for (int j = 0; j < N; j++) store(acc + m * step + j * LANES, sum[m][j]);
}
typedef void Product(float*, long, const float*, long, const float*, long);

// acc [ROWS, N vectors] += A^T B over `steps` times n rows: A [steps * n, ROWS] in one piece, B
// [n, N vectors] for each step, `next` floats apart.
template <int ROWS, int N>
void outer(float* acc, const float* A, const float* B, long ldb, long n, long steps, long next) {
  V sum[ROWS][N];
#pragma GCC unroll 16
  for (int m = 0; m < ROWS; m++)
#pragma GCC unroll 8
    for (int j = 0; j < N; j++) sum[m][j] = load(acc + (m * N + j) * LANES);
  for (long s = 0; s < steps; s++, B += next) {
    const float* row = B;
    for (long r = 0; r < n; r++, row += ldb, A += ROWS) {
      V b[N];
#pragma GCC unroll 8
      for (int j = 0; j < N; j++) b[j] = load(row + j * LANES);
#pragma GCC unroll 16
      for (int m = 0; m < ROWS; m++) {
        V a = all(A[m]);
#pragma GCC unroll 8
        for (int j = 0; j < N; j++) sum[m][j] += a * b[j];
      }
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < ROWS; m++)
#pragma GCC unroll 8
    for (int j = 0; j < N; j++) store(acc + (m * N + j) * LANES, sum[m][j]);
}
typedef void Outer(float*, const float*, const float*, long, long, long, long);

// acc [ROWS, N vectors] += the rows of all groups' panels times P [groups * K, N vectors].
template <int ROWS, int N>
void through(float* acc, const float* A, long row, long group, long groups, const float* P, long K) {
  V sum[ROWS][N];
#pragma GCC unroll 16
  for (int m = 0; m < ROWS; m++)
#pragma GCC unroll 2
    for (int j = 0; j < N; j++) sum[m][j] = load(acc + (m * N + j) * LANES);
  for (long g = 0; g < groups; g++, A += group)
    for (long k = 0; k < K; k++, P += N * LANES) {
      V b[N];
#pragma GCC unroll 2
      for (int j = 0; j < N; j++) b[j] = load(P + j * LANES);
#pragma GCC unroll 16
      for (int m = 0; m < ROWS; m++) {
        V a = all(A[m * row + k]);
#pragma GCC unroll 2
        for (int j = 0; j < N; j++) sum[m][j] += a * b[j];
      }
    }
#pragma GCC unroll 16
  for (int m = 0; m < ROWS; m++)
#pragma GCC unroll 2
    for (int j = 0; j < N; j++) store(acc + (m * N + j) * LANES, sum[m][j]);
}
typedef void Through(float*, const float*, long, long, long, const float*, long);

struct Kernels {
  Product* product[WIDEST + 1][MOST + 1] = {};
  Outer* outer[WIDEST + 1][MOST + 1] = {};
  Through* through[3][MOST + 1] = {};
  template <int N, int ROWS>
  void fill() {
    product[N][ROWS] = native::product<ROWS, N>;
    outer[N][ROWS] = native::outer<ROWS, N>;
    if constexpr (ROWS > 1) fill<N, ROWS - 1>();
  }
  template <int N, int ROWS>
  void fill_through() {
    through[N][ROWS] = native::through<ROWS, N>;
    if constexpr (ROWS > 1) fill_through<N, ROWS - 1>();
  }
  Kernels() {
    fill<1, tile_rows(1)>(), fill<2, tile_rows(2)>(), fill<3, tile_rows(3)>();
    fill<4, tile_rows(4)>(), fill<5, tile_rows(5)>(), fill<6, tile_rows(6)>();
    fill_through<1, MOST>(), fill_through<2, BACK>();
  }
};
inline const Kernels& kernels() {
  static const Kernels table;
  return table;
}

// Laying out -------------------------------------------------------------------------------------

// Up to LANES floats from where a last, narrow group has fewer; zeros beyond.
inline void copy_lanes(float* out, const float* in, int64_t count) {
  for (int64_t l = 0; l < LANES; l++) out[l] = l < count ? in[l] : 0.0f;
}
// w [K, columns * H] -> panels [groups, K, n, LANES] of the columns listed
inline void pack(const Plan& p, const float* w, int64_t ldw, int64_t K, const int64_t* column,
                 int64_t n, float* out, Share groups) {
  for (int64_t g = groups.from; g < groups.to; g++)
    for (int64_t k = 0; k < K; k++)
      for (int64_t j = 0; j < n; j++)
        copy_lanes(out + ((g * K + k) * n + j) * LANES, w + k * ldw + column[j] * p.H + g * LANES,
                   std::min<int64_t>(LANES, p.H - g * LANES));
}
// w [K, columns * H] -> its transpose, panels [ceil(K / width), groups * n * LANES, width]
inline void pack_transposed(const Plan& p, const float* w, int64_t ldw, int64_t K,
                            const int64_t* column, int64_t n, int64_t width, float* out,
                            Share panels) {
  const int64_t G = p.groups();
  for (int64_t q = panels.from; q < panels.to; q++)
    for (int64_t g = 0; g < G; g++)
      for (int64_t j = 0; j < n; j++)
        for (int64_t l = 0; l < LANES; l++) {
          float* o = out + (((q * G + g) * n + j) * LANES + l) * width;
          const float* from = w + q * width * ldw + column[j] * p.H + g * LANES + l;
          const int64_t rows = g * LANES + l < p.H ? std::min(width, K - q * width) : 0;
          for (int64_t r = 0; r < width; r++) o[r] = r < rows ? from[r * ldw] : 0.0f;
        }
}
// [B, H] <-> [groups, B, LANES]
inline void to_groups(const Plan& p, const float* in, float* out) {
  for (int64_t g = 0; g < p.groups(); g++)
    for (int64_t r = 0; r < p.B; r++)
      copy_lanes(out + (g * p.B + r) * LANES, in + r * p.H + g * LANES,
                 std::min<int64_t>(LANES, p.H - g * LANES));
}
inline void from_groups(const Plan& p, const float* in, float* out, Share rows) {
  for (int64_t r = rows.from; r < rows.to; r++)
    for (int64_t g = 0; g < p.groups(); g++)
      memcpy(out + r * p.H + g * LANES, in + (g * p.B + r) * LANES,
             4 * std::min<int64_t>(LANES, p.H - g * LANES));
}

// The tiles of one thread, of one group of units or of all. Arrays of whole rows whose last group is
// narrow are read and written through `side`.
struct Tile {
  float *acc, *side, *spill;
  int64_t groups, across;  // `acc` has a group's numbers so many floats after the one before
  int sides = 0, backs = 0;
  struct Back {
    float *from, *to;
    int64_t ld, count;
  } back[MANY];

  int64_t width() const { return groups * LANES; }
  void clear() { sides = backs = 0; }
  float* aside() { return side + sides++ * MOST * width(); }
  // Rows of an array [., ld] from a group's units on, to be read.
  Stream read(const Plan& p, const float* array, int64_t ld, int64_t row, int64_t rows, int64_t g) {
    const float* at = array + row * ld + g * LANES;
    const int64_t count = std::min(width(), p.H - g * LANES);
    if (count == width()) return {(float*)at, (long)ld, LANES};
    float* to = aside();
    for (int64_t m = 0; m < rows; m++) {
      memcpy(to + m * width(), at + m * ld, 4 * count);
      memset(to + m * width() + count, 0, 4 * (width() - count));
    }
    return {to, (long)width(), LANES};
  }
  // The same, to be written; `finish` brings it there.
  Stream write(const Plan& p, float* array, int64_t ld, int64_t row, int64_t g) {
    float* at = array + row * ld + g * LANES;
    const int64_t count = std::min(width(), p.H - g * LANES);
    if (count == width()) return {at, (long)ld, LANES};
    float* from = aside();
    back[backs++] = {from, at, ld, count};
    return {from, (long)width(), LANES};
  }
  void finish(int64_t rows) {
    for (int k = 0; k < backs; k++)
      for (int64_t m = 0; m < rows; m++)
        memcpy(back[k].to + m * back[k].ld, back[k].from + m * width(), 4 * back[k].count);
  }
  Stream note(const Plan& p, const Arrays& a, int k, int64_t t, int64_t row, int64_t rows,
              int64_t g) {
    const Note& n = p.note[k];
    const float* at = a.note[k] + t * n.t;
    if (!n.u) return {(float*)at + row * n.b, (long)n.b, 0};
    return read(p, at, n.b, row, rows, g);
  }
};
constexpr int SIDES = 8;  // besides the notes: what a step has of arrays of whole rows
// Memory of a thread that goes group by group.
struct Narrow {
  alignas(64) float acc[MOST * MANY * LANES];
  alignas(64) float side[(MANY + SIDES) * MOST * LANES];
  Tile tile() { return {acc, side, nullptr, 1, 0}; }
};
// Memory of one that takes whole rows, of `wide` numbers a unit: the products of so many tiles are
// made before any is gone on with, or each would bring all of the weights again.
constexpr int SET = 4 * MOST;
inline size_t whole_floats(const Plan& p, int64_t wide) {
  return p.mixes ? p.groups() * LANES * (SET * wide + MOST * (p.notes + SIDES) + p.spilled) : 0;
}
inline Tile whole(const Plan& p, int64_t wide, float* base) {
  const int64_t units = p.groups() * LANES;
  float *side = base + SET * wide * units, *spill = side + MOST * (p.notes + SIDES) * units;
  return {base, side, spill, p.groups(), 0};
}

// Forward ----------------------------------------------------------------------------------------

struct Forward {
  Plan p;
  Arrays a;
  Cell cell;
  float *W, *R, *b, *first[MANY], *param, *fed;  // packed weights, carries by groups
  float* rows_of;  // memory for whole rows
  bool by_units;

  size_t lay_out(float* base) {
    Pieces s{base};
    const int64_t G = p.groups(), cells = G * p.B * LANES;
    W = s.take(p.inside ? G * p.D * p.zs() * LANES : 0);
    R = s.take(p.fed >= 0 ? G * p.H * p.rs() * LANES : 0);
    b = s.take(G * p.N * LANES);
    param = s.take(G * p.params * LANES);
    for (int k = 0; k < p.carries; k++) first[k] = s.take(k == p.fed ? 0 : cells);
    fed = p.fed < 0 || p.same ? nullptr : s.take(p.keep ? 0 : 2 * p.B * p.H);
    rows_of = s.take(p.threads * whole_floats(p, p.N));
    if (p.keep && base && !p.same)
      fed = a.kept + p.kept_cells() + (p.carries - 1) * p.kept_carry();
    return s.used;
  }
  // The fed carry [B, H] after step t, the first where t is -1.
  float* carried(int64_t t) const {
    if (t < 0) return (float*)a.carry[p.fed];
    if (p.same) return a.y + p.nth(t) * p.B * p.H;
    return fed + (p.keep ? t : t % 2) * p.B * p.H;
  }
  // Another carry [groups, B, LANES] after step t.
  float* grouped(int k, int64_t t) const {
    if (t < 0 || !p.keep) return first[k];
    const int slot = k - (p.fed >= 0 && k > p.fed);
    return a.kept + p.kept_cells() + slot * p.kept_carry() + t * p.groups() * p.B * LANES;
  }
  // The pre-activations of some rows.
  void products(float* acc, int64_t t, int64_t g, int64_t row, int64_t rows) const {
    const int64_t now = p.nth(t), ld = p.N * LANES;
    start(acc, now, g, row, rows);
    const Kernels& k = kernels();
    if (p.inside && p.zs())
      k.product[p.zs()][rows](acc, ld, a.x + (now * p.B + row) * p.D, p.D,
                              W + g * p.D * p.zs() * LANES, p.D);
    if (p.fed >= 0 && p.rs())
      k.product[p.rs()][rows](acc + p.only_x * LANES, ld, carried(t - 1) + row * p.H, p.H,
                              R + g * p.H * p.rs() * LANES, p.H);
  }
  // What the sums begin with: the bias, or what was projected before.
  void start(float* acc, int64_t now, int64_t g, int64_t row, int64_t rows) const {
    for (int64_t m = 0; m < rows; m++)
      for (int64_t j = 0; j < p.N; j++) {
        float* to = acc + (m * p.N + j) * LANES;
        if (p.inside || p.of_z[j] < 0) {
          store(to, load(b + (g * p.N + j) * LANES));
          continue;
        }
        const float* z = a.z + (now * p.B + row + m) * p.zs() * p.H + p.of_z[j] * p.H + g * LANES;
        if (p.H - g * LANES >= LANES) store(to, load(z));
        else copy_lanes(to, z, p.H - g * LANES);
      }
  }
  void point(Tile& s, int64_t t, int64_t g, int64_t row, int64_t rows) const {
    const int64_t now = p.nth(t), at = (g * p.B + row) * LANES;
    const long sums = p.N * LANES, kept = p.saved * LANES, group = p.B * LANES;
    const long numbers = p.params * LANES;
    Stream list[MANY * 4], *next = list;
    s.clear();
    *next++ = {s.acc, sums, (long)s.across};
    for (int k = 0; k < p.carries; k++)
      *next++ = k == p.fed ? s.read(p, carried(t - 1), p.H, row, rows, g)
                           : Stream{grouped(k, t - 1) + at, LANES, group};
    *next++ = {param + g * numbers, 0, numbers};
    for (int k = 0; k < p.notes; k++) *next++ = s.note(p, a, k, now, row, rows, g);
    for (int k = 0; k < p.carries; k++) {
      if (k != p.fed) *next++ = {grouped(k, t) + at, LANES, group};
      else if (!p.same) *next++ = s.write(p, carried(t), p.H, row, g);
      else *next++ = {nullptr, 0, 0};  // it is the output
    }
    *next++ = s.write(p, a.y + now * p.B * p.H, p.H, row, g);
    *next++ = {a.kept + t * p.groups() * p.B * kept + at * p.saved, kept, p.B * kept};
    (p.keep ? cell.keep : cell.plain)(rows, s.groups, p.last(), s.spill, list);
    s.finish(rows);
  }
  void work(int id, Team& team) {
    const int64_t G = p.groups();
    const Share mine = share(G, id, team.size);
    if (p.inside) pack(p, a.W, p.zs() * p.H, p.D, p.of_z, p.zs(), W, mine);
    if (p.fed >= 0) pack(p, a.R, p.rs() * p.H, p.H, p.of_r + p.only_x, p.rs(), R, mine);
    for (int64_t g = mine.from; g < mine.to; g++)
      for (int64_t j = 0; j < p.N; j++) {
        const bool given = p.inside && a.b && p.of_z[j] >= 0;
        copy_lanes(b + (g * p.N + j) * LANES,
                   given ? a.b + p.of_z[j] * p.H + g * LANES : nullptr,
                   given ? std::min<int64_t>(LANES, p.H - g * LANES) : 0);
      }
    pack_params(p, a.param, param, mine);
    if (id == 0)
      for (int k = 0; k < p.carries; k++)
        if (k != p.fed) to_groups(p, a.carry[k], first[k]);
    team.meet();
    const Share groups = by_units ? mine : Share{0, G};
    const Share rows = by_units ? Share{0, p.B} : share(p.B, id, team.size);
    p.mixes ? loop_whole(rows, id) : loop(groups, rows, team);
    finish(rows, by_units ? id == 0 : true);
  }
  static void pack_params(const Plan& p, const float* in, float* out, Share groups) {
    for (int64_t g = groups.from; g < groups.to; g++)
      for (int64_t k = 0; k < p.params; k++)
        copy_lanes(out + (g * p.params + k) * LANES, in + k * p.H + g * LANES,
                   std::min<int64_t>(LANES, p.H - g * LANES));
  }
  int64_t most() const { return tile_rows((int)std::max<int64_t>(1, std::max(p.zs(), p.rs()))); }
  void loop(Share groups, Share rows, Team& team) {
    Narrow room;
    Tile s = room.tile();
    const Tiles tiles{rows, most()};
    for (int64_t t = 0; t < p.T; t++) {
      for (int64_t g = groups.from; g < groups.to; g++)
        for (int64_t k = 0; k < tiles.count(); k++) {
          products(s.acc, t, g, tiles.from(k), tiles.size(k));
          point(s, t, g, tiles.from(k), tiles.size(k));
        }
      if (by_units) team.meet();
    }
  }
  void loop_whole(Share rows, int id) {
    Tile s = whole(p, p.N, rows_of + id * whole_floats(p, p.N));
    float* sums = s.acc;
    for (int64_t t = 0; t < p.T; t++)
      for (int64_t from = rows.from; from < rows.to; from += SET) {
        const Tiles tiles{{from, std::min(from + SET, rows.to)}, most()};
        const int64_t n = tiles.rows.to - from, wide = p.N * LANES;
        s.across = n * wide;
        for (int64_t g = 0; g < p.groups(); g++)
          for (int64_t k = 0; k < tiles.count(); k++)
            products(sums + (g * n + tiles.from(k) - from) * wide, t, g, tiles.from(k),
                     tiles.size(k));
        for (int64_t k = 0; k < tiles.count(); k++) {
          s.acc = sums + (tiles.from(k) - from) * wide;
          point(s, t, 0, tiles.from(k), tiles.size(k));
        }
      }
  }
  void finish(Share rows, bool mine) const {
    if (!mine) return;
    for (int k = 0; k < p.carries; k++) {
      if (k != p.fed) from_groups(p, grouped(k, p.T - 1), a.last[k], rows);
      else
        memcpy(a.last[k] + rows.from * p.H, carried(p.T - 1) + rows.from * p.H,
               4 * (rows.to - rows.from) * p.H);
    }
  }
};

// Backward ---------------------------------------------------------------------------------------

struct Backward {
  Plan p;
  Arrays a;
  Cell cell;
  float *RT, *WT, *dz, *dcarry[MANY], *first[MANY], *param, *dparam, *dW, *dR, *xs, *hs;
  float* rows_of;  // memory for whole rows
  int64_t block;  // steps whose dz is kept at a time
  bool by_units;
  int most;  // members of the team at most

  int64_t width() const { return p.D <= LANES ? 1 : 2; }  // vectors of a panel of W^T
  size_t lay_out(float* base) {
    Pieces s{base};
    const int64_t G = p.groups(), cells = G * p.B * LANES, pairs = (G + 1) / 2;
    RT = s.take(p.fed >= 0 ? pairs * G * p.rs() * LANES * 2 * LANES : 0);
    const int64_t panels = (p.D + width() * LANES - 1) / (width() * LANES);
    WT = s.take(p.inside && p.wants_x ? panels * G * p.zs() * LANES * width() * LANES : 0);
    dz = s.take((block + 1) * cells * p.N);
    for (int k = 0; k < p.carries; k++) {
      dcarry[k] = k == p.fed && !p.straight[k] ? nullptr : s.take(cells);
      first[k] = s.take(k == p.fed ? 0 : cells);
    }
    param = s.take(G * p.params * LANES);
    dparam = s.take(most * G * p.params * LANES);
    dW = s.take(p.inside ? G * (p.D + 1) * p.zs() * LANES : 0);
    dR = s.take(p.fed >= 0 ? G * p.H * p.rs() * LANES : 0);
    xs = s.take(p.inside ? block * p.B * p.D : 0);
    hs = s.take(p.fed >= 0 ? block * p.B * p.H : 0);
    rows_of = s.take(most * whole_floats(p, 4));
    return s.used;
  }
  const float* carried(int64_t t) const {
    if (t < 0) return a.carry[p.fed];
    if (p.same) return a.y + p.nth(t) * p.B * p.H;
    return a.kept + p.kept_cells() + (p.carries - 1) * p.kept_carry() + t * p.B * p.H;
  }
  const float* grouped(int k, int64_t t) const {
    if (t < 0) return first[k];
    const int slot = k - (p.fed >= 0 && k > p.fed);
    return a.kept + p.kept_cells() + slot * p.kept_carry() + t * p.groups() * p.B * LANES;
  }
  // One step's dz of two groups of units: `next` is that of the step after it, all [groups, B, N].
  void tile(Tile& s, int64_t t, const float* next, float* now, int64_t pair, int64_t row,
            int64_t rows, int id) const {
    if (p.fed >= 0) arrive(s.acc, t, next, pair, row, rows);
    for (int64_t j = 0; j < 2 && pair * 2 + j < p.groups(); j++)
      point(s, t, now, pair * 2 + j, {s.acc + j * LANES, 2 * LANES, 0}, row, rows, id);
  }
  // The fed carry's cotangent of two groups, [rows, 2 vectors].
  void arrive(float* acc, int64_t t, const float* next, int64_t pair, int64_t row,
              int64_t rows) const {
    const int64_t G = p.groups(), wide = p.N * LANES;
    start(acc, t, pair, row, rows);
    if (t + 1 < p.T)
      kernels().through[2][rows](acc, next + row * wide + p.only_x * LANES, wide, p.B * wide, G,
                                 RT + pair * G * p.rs() * LANES * 2 * LANES, p.rs() * LANES);
  }
  // What of it does not come through R.
  void start(float* acc, int64_t t, int64_t pair, int64_t row, int64_t rows) const {
    const float* last = t + 1 == p.T ? a.dlast[p.fed] : nullptr;
    for (int64_t m = 0; m < rows; m++)
      for (int64_t j = 0; j < 2; j++) {
        float* to = acc + (m * 2 + j) * LANES;
        const int64_t g = pair * 2 + j, count = std::min<int64_t>(LANES, p.H - g * LANES);
        if (last) copy_lanes(to, last + (row + m) * p.H + g * LANES, std::max<int64_t>(count, 0));
        else if (g < p.groups() && p.straight[p.fed])
          store(to, load(dcarry[p.fed] + (g * p.B + row + m) * LANES));
        else store(to, all(0));
      }
  }
  void point(Tile& s, int64_t t, float* now, int64_t g, Stream arrived, int64_t row, int64_t rows,
             int id) const {
    const int64_t at = (g * p.B + row) * LANES, time = p.nth(t);
    const long wide = p.N * LANES, kept = p.saved * LANES, group = p.B * LANES;
    const long numbers = p.params * LANES;
    Stream list[MANY * 4], *next = list;
    s.clear();
    *next++ = {a.kept + t * p.groups() * p.B * kept + at * p.saved, kept, p.B * kept};
    for (int k = 0; k < p.carries; k++)
      *next++ = k == p.fed ? s.read(p, carried(t - 1), p.H, row, rows, g)
                           : Stream{(float*)grouped(k, t - 1) + at, LANES, group};
    *next++ = {param + g * numbers, 0, numbers};
    for (int k = 0; k < p.notes; k++) *next++ = s.note(p, a, k, time, row, rows, g);
    for (int k = 0; k < p.carries; k++)
      *next++ = k == p.fed ? arrived : Stream{dcarry[k] + at, LANES, group};
    *next++ = s.read(p, a.dy + time * p.B * p.H, p.H, row, rows, g);
    float* z = now + at * p.N;
    *next++ = {z, wide, p.B * wide};
    for (int k = 0; k < p.carries; k++)
      *next++ = dcarry[k] ? Stream{dcarry[k] + at, LANES, group} : Stream{nullptr, 0, 0};
    *next++ = {dparam + (id * p.groups() + g) * numbers, 0, numbers};
    cell.back(rows, s.groups, p.last(), s.spill, list);
    if (g + s.groups < p.groups() || p.last() == LANES) return;
    z += (s.groups - 1) * p.B * wide;  // no unit: whatever the cell made of it must not go on
    for (int64_t m = 0; m < rows * p.N; m++) copy_lanes(z + m * LANES, z + m * LANES, p.last());
  }
  void prepare(int id, Team& team) {
    const int64_t G = p.groups(), pairs = (G + 1) / 2;
    if (p.fed >= 0)
      pack_transposed(p, a.R, p.rs() * p.H, p.H, p.of_r + p.only_x, p.rs(), 2 * LANES, RT,
                      share(pairs, id, team.size));
    const int64_t columns = width() * LANES, panels = (p.D + columns - 1) / columns;
    if (p.inside && p.wants_x)
      pack_transposed(p, a.W, p.zs() * p.H, p.D, p.of_z, p.zs(), columns, WT,
                      share(panels, id, team.size));
    Forward::pack_params(p, a.param, param, share(G, id, team.size));
    memset(dparam + id * G * p.params * LANES, 0, 4 * G * p.params * LANES);
    if (id == 0)
      for (int k = 0; k < p.carries; k++) {
        if (k == p.fed) continue;
        to_groups(p, a.carry[k], first[k]);
        to_groups(p, a.dlast[k], dcarry[k]);
      }
    team.meet();
  }
  void work(int id, Team& team) {
    prepare(id, team);
    const int64_t G = p.groups(), size = G * p.B * p.N * LANES, pairs = (G + 1) / 2;
    const Share units = by_units ? share(pairs, id, team.size) : Share{0, pairs};
    const Share rows = by_units ? Share{0, p.B} : share(p.B, id, team.size);
    for (int64_t hi = p.T; hi > 0; hi -= block) {
      const int64_t lo = std::max<int64_t>(0, hi - block);
      loop(lo, hi, units, rows, id, team);
      if (p.inside) columns(lo, hi, p.D, tile_rows((int)p.zs()), true, xs, id, team);
      if (p.fed >= 0) columns(lo, hi, p.H, tile_rows((int)p.rs()), false, hs, id, team);
      team.meet();
      weights(lo, hi, share(G, id, team.size));
      if (p.inside && p.wants_x) inputs(lo, hi - lo, id, team);
      if (!p.inside) projected(lo, hi, share(p.B, id, team.size));
      team.meet();
      const Share part = share(size, id, team.size);
      if (lo) memcpy(dz + block * size + part.from, dz + part.from, 4 * (part.to - part.from));
      else initial(id, team);
      team.meet();
    }
    parameters(id, team);
  }
  void loop(int64_t lo, int64_t hi, Share units, Share rows, int id, Team& team) {
    Narrow room;
    Tile s = p.mixes ? whole(p, 4, rows_of + id * whole_floats(p, 4)) : room.tile();
    const int64_t size = p.groups() * p.B * p.N * LANES;
    const Tiles tiles{rows, BACK};
    for (int64_t t = hi - 1; t >= lo; t--) {
      float* now = dz + (t - lo) * size;
      const float* next = t == hi - 1 ? dz + block * size : now + size;
      for (int64_t from = rows.from; p.mixes && from < rows.to; from += SET)
        set(s, t, next, now, {{from, std::min(from + SET, rows.to)}, BACK}, id);
      for (int64_t u = units.from; !p.mixes && u < units.to; u++)
        for (int64_t k = 0; k < tiles.count(); k++)
          tile(s, t, next, now, u, tiles.from(k), tiles.size(k), id);
      if (by_units) team.meet();
    }
  }
  // One step's dz of all groups of some tiles.
  void set(Tile& s, int64_t t, const float* next, float* now, const Tiles& tiles, int id) const {
    const int64_t pairs = (p.groups() + 1) / 2, n = tiles.rows.to - tiles.rows.from;
    for (int64_t pair = 0; pair < pairs && p.fed >= 0; pair++)
      for (int64_t k = 0; k < tiles.count(); k++)
        arrive(s.acc + (pair * n + tiles.from(k) - tiles.rows.from) * 2 * LANES, t, next, pair,
               tiles.from(k), tiles.size(k));
    // [pairs, rows, 2] to [rows, pairs, 2]: a stream has one distance from group to group
    float* arrived = s.acc + pairs * n * 2 * LANES;
    for (int64_t m = 0; m < n && p.fed >= 0; m++)
      for (int64_t pair = 0; pair < pairs; pair++)
        memcpy(arrived + (m * pairs + pair) * 2 * LANES, s.acc + (pair * n + m) * 2 * LANES,
               8 * LANES);
    const long row = pairs * 2 * LANES;
    for (int64_t k = 0; k < tiles.count(); k++)
      point(s, t, now, 0, {arrived + (tiles.from(k) - tiles.rows.from) * row, row, LANES},
            tiles.from(k), tiles.size(k), id);
  }
  // dW, db and dR of a block of steps, summed up in panels.
  void weights(int64_t lo, int64_t hi, Share groups) const {
    for (int64_t g = groups.from; g < groups.to; g++) {
      if (p.inside) {
        gradient(lo, hi, g, p.D, p.zs(), 0, xs, dW + g * (p.D + 1) * p.zs() * LANES);
        biases(lo, hi, g, dW + (g * (p.D + 1) + p.D) * p.zs() * LANES);
      }
      if (p.fed >= 0)
        gradient(lo, hi, g, p.H, p.rs(), p.only_x, hs, dR + g * p.H * p.rs() * LANES);
      if (lo) continue;
      if (p.inside) {
        unpack(dW + g * (p.D + 1) * p.zs() * LANES, p.D, p.zs(), p.of_z, a.dW, g);
        if (a.db) unpack(dW + (g * (p.D + 1) + p.D) * p.zs() * LANES, 1, p.zs(), p.of_z, a.db, g);
      }
      if (p.fed >= 0) unpack(dR + g * p.H * p.rs() * LANES, p.H, p.rs(), p.of_r + p.only_x, a.dR, g);
    }
  }
  // What is multiplied with dz, laid out for `outer`: [ceil(K / most), steps * B, most], the last
  // narrower; 16 rows at a time, which stay in the first cache.
  void columns(int64_t lo, int64_t hi, int64_t K, int64_t most, bool of_x, float* out, int id,
               Team& team) const {
    const int64_t rows = (hi - lo) * p.B;
    for (int64_t t = lo; t < hi; t++) {
      const Share mine = share(p.B, id, team.size);
      const float* in = of_x ? a.x + p.nth(t) * p.B * p.D : carried(t - 1);
      for (int64_t from = mine.from; from < mine.to; from += 16)
        for (int64_t k = 0; k < K; k += most) {
          const int64_t wide = std::min(most, K - k);
          float* o = out + k * rows + ((t - lo) * p.B + from) * wide;
          for (int64_t r = from; r < std::min(from + 16, mine.to); r++, o += wide)
            for (int64_t m = 0; m < wide; m++) o[m] = in[r * K + k + m];
        }
    }
  }
  void gradient(int64_t lo, int64_t hi, int64_t g, int64_t K, int64_t n, int64_t from,
                const float* in, float* out) const {
    const int64_t wide = p.N * LANES, most = tile_rows((int)n), size = p.groups() * p.B * wide;
    if (hi == p.T) memset(out, 0, 4 * K * n * LANES);
    for (int64_t k = 0; n && k < K; k += most)
      kernels().outer[n][std::min(most, K - k)](out + k * n * LANES, in + k * (hi - lo) * p.B,
                                                dz + g * p.B * wide + from * LANES, wide, p.B,
                                                hi - lo, size);
  }
  void biases(int64_t lo, int64_t hi, int64_t g, float* out) const {
    const int64_t wide = p.N * LANES, size = p.groups() * p.B * wide;
    if (hi == p.T) memset(out, 0, 4 * p.zs() * LANES);
    for (int64_t j = 0; j < p.zs(); j++) {
      V sum = load(out + j * LANES);
      for (int64_t t = lo; t < hi; t++)
        for (int64_t r = 0; r < p.B; r++)
          sum += load(dz + (t - lo) * size + (g * p.B + r) * wide + j * LANES);
      store(out + j * LANES, sum);
    }
  }
  void unpack(const float* in, int64_t K, int64_t n, const int64_t* column, float* out,
              int64_t g) const {
    for (int64_t k = 0; k < K; k++)
      for (int64_t j = 0; j < n; j++)
        memcpy(out + k * n * p.H + column[j] * p.H + g * LANES, in + (k * n + j) * LANES,
               4 * std::min<int64_t>(LANES, p.H - g * LANES));
  }
  // dx of a block of steps.
  void inputs(int64_t lo, int64_t steps, int id, Team& team) const {
    const int64_t G = p.groups(), wide = p.N * LANES, size = G * p.B * wide, w = width();
    const int64_t columns = w * LANES, panels = (p.D + columns - 1) / columns;
    const int64_t most = w == 1 ? MOST : BACK, blocks = (p.B + most - 1) / most;
    const Share mine = share(panels * steps * blocks, id, team.size);
    alignas(64) float acc[MOST * 2 * LANES];
    for (int64_t u = mine.from; u < mine.to; u++) {
      const int64_t q = u / (steps * blocks), s = u / blocks % steps, k = u % blocks;
      const int64_t row = p.B * k / blocks, rows = p.B * (k + 1) / blocks - row;
      memset(acc, 0, sizeof acc);
      kernels().through[w][rows](acc, dz + s * size + row * wide, wide, p.B * wide, G,
                                 WT + q * G * p.zs() * LANES * columns, p.zs() * LANES);
      const int64_t count = std::min(columns, p.D - q * columns);
      float* out = a.dx + (p.nth(lo + s) * p.B + row) * p.D + q * columns;
      for (int64_t m = 0; m < rows; m++) memcpy(out + m * p.D, acc + m * columns, 4 * count);
    }
  }
  // The cotangents of what was projected before, for whoever did.
  void projected(int64_t lo, int64_t hi, Share rows) const {
    const int64_t wide = p.N * LANES, size = p.groups() * p.B * wide;
    for (int64_t t = lo; t < hi; t++)
      for (int64_t r = rows.from; r < rows.to; r++)
        for (int64_t g = 0; g < p.groups(); g++)
          unpack(dz + (t - lo) * size + (g * p.B + r) * wide, 1, p.zs(), p.of_z,
                 a.dz + (p.nth(t) * p.B + r) * p.zs() * p.H, g);
  }
  // The cotangents of the first carry.
  void initial(int id, Team& team) const {
    const Share rows = share(p.B, id, team.size);
    for (int k = 0; k < p.carries; k++)
      if (dcarry[k]) from_groups(p, dcarry[k], a.dcarry[k], rows);
      else memset(a.dcarry[k] + rows.from * p.H, 0, 4 * (rows.to - rows.from) * p.H);
    if (p.fed < 0) return;
    const int64_t G = p.groups(), wide = p.N * LANES, pairs = (G + 1) / 2;
    alignas(64) float acc[MOST * 2 * LANES];
    for (int64_t pair = 0; pair < pairs; pair++)
      for (int64_t row = rows.from; row < rows.to; row += BACK) {
        const int64_t n = std::min<int64_t>(BACK, rows.to - row);
        memset(acc, 0, sizeof acc);
        kernels().through[2][n](acc, dz + row * wide + p.only_x * LANES, wide, p.B * wide, G,
                                RT + pair * G * p.rs() * LANES * 2 * LANES, p.rs() * LANES);
        const int64_t count = std::min<int64_t>(2 * LANES, p.H - pair * 2 * LANES);
        for (int64_t m = 0; m < n; m++)
          for (int64_t l = 0; l < count; l++)
            a.dcarry[p.fed][(row + m) * p.H + pair * 2 * LANES + l] += acc[m * 2 * LANES + l];
      }
  }
  void parameters(int id, Team& team) const {
    if (id || !p.params) return;
    const int64_t size = p.groups() * p.params * LANES;
    for (int member = 1; member < team.size; member++)
      for (int64_t k = 0; k < size; k++) dparam[k] += dparam[member * size + k];
    for (int64_t g = 0; g < p.groups(); g++)
      for (int64_t k = 0; k < p.params; k++)
        memcpy(a.dparam + k * p.H + g * LANES, dparam + (g * p.params + k) * LANES,
               4 * std::min<int64_t>(LANES, p.H - g * LANES));
  }
};

// Calls ------------------------------------------------------------------------------------------

inline Scratch& scratch() {
  static thread_local Scratch s;
  return s;
}
// Whether members share the units of a step, meeting after each, or the rows of the batch.
inline bool split_units(const Plan& p, int64_t inputs) {
  const int64_t weights = 4 * p.N * p.H * (p.H + inputs);
  return p.threads > 1 && !p.mixes && p.groups() >= 2 * p.threads && (weights > 1500000 || p.B < 2 * p.threads);
}
template <class Pass>
void member(void* pass, int id, Team& team) {
  ((Pass*)pass)->work(id, team);
}
template <class Pass>
bool run(Pass& pass, Schedule* schedule, void* pool) {
  float* base = scratch().get(pass.lay_out(nullptr));
  if (!base) return false;
  pass.lay_out(base);
  run_team(member<Pass>, &pass, (int)pass.p.threads, pass.p.products(), schedule, pool);
  return true;
}
inline bool forward(const Plan& p, const Arrays& a, const Cell& cell, Schedule* s, void* pool) {
  Forward pass{};
  pass.p = p, pass.a = a, pass.cell = cell;
  pass.by_units = split_units(p, p.inside ? p.D : 0);
  return run(pass, s, pool);
}
inline bool backward(const Plan& p, const Arrays& a, const Cell& cell, Schedule* s, void* pool) {
  Backward pass{};
  pass.p = p, pass.a = a, pass.cell = cell, pass.most = (int)p.threads;
  pass.by_units = split_units(p, 0);
  pass.block = std::min(p.T, std::max<int64_t>(1, p.rows / p.B));
  return run(pass, s, pool);
}

}  // namespace native
