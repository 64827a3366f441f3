// The kernel by itself, for sanitizers: shapes around a vector's edges, alone and with a team, must
// give the same numbers. `driver T B D H threads rounds` times one shape instead.
#include <chrono>
#include <cstdio>
#include <thread>
#include <vector>

#include "sequence.h"

extern "C" {
native::Point keep, plain, back;  // of a cell, as the engine writes it
}

namespace {

bool schedule(void*, void (*task)(void*), void* data) {
  std::thread(task, data).detach();
  return true;
}

struct Numbers {
  uint32_t state = 1;
  float next() {
    state = state * 1664525u + 1013904223u;
    return (state >> 8) * (1.0f / (1 << 24)) - 0.5f;
  }
  std::vector<float> some(int64_t size) {
    std::vector<float> v(size);
    for (float& x : v) x = next();
    return v;
  }
};

struct Problem {
  native::Plan p{};
  native::Arrays a{};
  std::vector<std::vector<float>> held;

  float* hold(std::vector<float> v) {
    held.push_back(std::move(v));
    return held.back().data();
  }
  float* room(int64_t size) { return hold(std::vector<float>(size)); }

  Problem(int64_t T, int64_t B, int64_t D, int64_t H, int threads, bool inside, bool reverse) {
    Numbers n;
    p.T = T, p.B = B, p.D = D, p.H = H, p.threads = threads, p.inside = inside;
    p.reverse = reverse, p.keep = 1, p.wants_x = 1, p.rows = 64;
    p.N = CELL_N, p.only_x = CELL_ONLY_X, p.both = CELL_BOTH, p.carries = 2, p.fed = 1, p.same = 1;
    p.params = CELL_PARAMS, p.saved = CELL_SAVED, p.mixes = CELL_MIXES, p.spilled = CELL_SPILLED, p.straight[0] = 1;
    constexpr int64_t z[] = {CELL_OF_Z}, r[] = {CELL_OF_R};
    for (int k = 0; k < CELL_N; k++) p.of_z[k] = z[k], p.of_r[k] = r[k];
    held.reserve(32);
    a.x = hold(n.some(T * B * D)), a.W = hold(n.some(D * 4 * H)), a.b = hold(n.some(4 * H));
    a.z = hold(n.some(T * B * 4 * H)), a.R = hold(n.some(H * 4 * H));
    for (int k = 0; k < 2; k++) a.carry[k] = hold(n.some(B * H)), a.dlast[k] = hold(n.some(B * H));
    a.dy = hold(n.some(T * B * H));
    a.y = room(T * B * H), a.kept = room(p.kept());
    for (int k = 0; k < 2; k++) a.last[k] = room(B * H), a.dcarry[k] = room(B * H);
    a.dx = room(T * B * D), a.dW = room(D * 4 * H), a.db = room(4 * H), a.dz = room(T * B * 4 * H);
    a.dR = room(H * 4 * H);
    a.param = hold(n.some(CELL_PARAMS * H)), a.dparam = room(CELL_PARAMS * H);
  }
  bool run() {
    const native::Cell cell{keep, plain, back};
    return native::forward(p, a, cell, schedule, nullptr) &&
           native::backward(p, a, cell, schedule, nullptr);
  }
};

int compare(Problem& one, Problem& other) {
  for (size_t k = 0; k < one.held.size(); k++)
    for (size_t i = 0; i < one.held[k].size(); i++) {
      const float x = one.held[k][i], y = other.held[k][i];
      if (!(std::abs(x - y) <= 1e-4f * (1 + std::abs(x)))) {
        printf("T%ld B%ld D%ld H%ld: array %zu at %zu: %g and %g\n", (long)one.p.T, (long)one.p.B,
               (long)one.p.D, (long)one.p.H, k, i, x, y);
        return 1;
      }
    }
  return 0;
}

int fuzz() {
  int wrong = 0, count = 0;
  for (int64_t H : {2, LANES - 1, LANES, LANES + 1, 4 * LANES, 5 * LANES + 3})
    for (int64_t B : {1, 2, 7, 13})
      for (int inside : {0, 1})
        for (int reverse : {0, 1}) {
          const int64_t T = 1 + count % 9, D = 1 + (count * 7) % (2 * LANES + 2);
          Problem one(T, B, D, H, 1, inside, reverse), team(T, B, D, H, 3, inside, reverse);
          if (!one.run() || !team.run()) return 2;
          wrong += compare(one, team), count++;
        }
  printf("%d shapes, %d wrong\n", count, wrong);
  return wrong != 0;
}

void time_one(char** words) {
  Problem one(atol(words[1]), atol(words[2]), atol(words[3]), atol(words[4]), atoi(words[5]), true,
              false);
  one.p.rows = 512;
  for (int k = 0; k < atoi(words[6]); k++) {
    const auto began = std::chrono::steady_clock::now();
    one.run();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
    printf("%.3f ms\n", 1e3 * took.count());
  }
}

}  // namespace

int main(int count, char** words) {
  if (count < 7) return fuzz();
  time_one(words);
  return 0;
}
