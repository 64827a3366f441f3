// The two custom calls: XLA's buffers and attributes as `native::Arrays` and `native::Plan`.
#include <map>
#include <mutex>

#include "sequence.h"
#include "xla/ffi/api/c_api.h"

namespace {

std::mutex lock;
std::map<int64_t, native::Cell>& cells() {
  static auto* known = new std::map<int64_t, native::Cell>;
  return *known;
}

XLA_FFI_Error* failed(XLA_FFI_CallFrame* frame, const char* message) {
  XLA_FFI_Error_Create_Args args{};
  args.struct_size = XLA_FFI_Error_Create_Args_STRUCT_SIZE;
  args.message = message;
  args.errc = XLA_FFI_Error_Code_INTERNAL;
  return frame->api->XLA_FFI_Error_Create(&args);
}

bool schedule(void* pool, void (*task)(void*), void* data) {
  auto* frame = (XLA_FFI_CallFrame*)pool;
  XLA_FFI_ThreadPool_Schedule_Args args{};
  args.struct_size = XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE;
  args.ctx = frame->ctx;
  args.task = task;
  args.data = data;
  XLA_FFI_Error* error = frame->api->XLA_FFI_ThreadPool_Schedule(&args);
  if (!error) return true;
  XLA_FFI_Error_Destroy_Args gone{};
  gone.struct_size = XLA_FFI_Error_Destroy_Args_STRUCT_SIZE;
  gone.error = error;
  frame->api->XLA_FFI_Error_Destroy(&gone);
  return false;
}

// XLA asks a handler for its version before it calls it.
bool asked_for_version(XLA_FFI_CallFrame* frame) {
  auto* extension = frame->extension_start;
  if (!extension || extension->type != XLA_FFI_Extension_Metadata) return false;
  auto* metadata = ((XLA_FFI_Metadata_Extension*)extension)->metadata;
  metadata->api_version.major_version = XLA_FFI_API_MAJOR;
  metadata->api_version.minor_version = XLA_FFI_API_MINOR;
  return true;
}

// Numbers of the plan, as `call.py` writes them.
struct Reader {
  const int64_t* at;
  int64_t next() { return *at++; }
};
int64_t read_plan(Reader in, native::Plan& p) {
  const int64_t id = in.next();
  for (int64_t* field : {&p.T, &p.B, &p.D, &p.H, &p.reverse, &p.keep, &p.threads, &p.inside,
                         &p.wants_x, &p.N, &p.only_x, &p.both, &p.carries, &p.fed, &p.same,
                         &p.params, &p.notes, &p.saved, &p.rows, &p.mixes, &p.spilled})
    *field = in.next();
  for (int k = 0; k < p.N; k++) p.of_z[k] = in.next();
  for (int k = 0; k < p.N; k++) p.of_r[k] = in.next();
  for (int k = 0; k < p.carries; k++) p.straight[k] = in.next();
  for (int k = 0; k < p.notes; k++) p.note[k] = {in.next(), in.next(), in.next()};
  return id;
}

// Buffers one after the other, for one trial of those that lead every array: [trials.., shape].
struct Buffers {
  void** list;
  const int64_t* lead;  // the trials' axes, of the first result
  int64_t axes, trial;
  int next = 0;
  float* take(int rank) {
    auto* buffer = (XLA_FFI_Buffer*)list[next++];
    int64_t size = 1, offset = 0, step = 1, rest = trial;
    for (int k = 0; k < rank; k++) size *= buffer->dims[axes + k];
    for (int64_t k = axes - 1; k >= 0; k--) {
      offset += (buffer->dims[k] == 1 ? 0 : rest % lead[k]) * step;
      rest /= lead[k];
      step *= buffer->dims[k];
    }
    return (float*)buffer->data + offset * size;
  }
};

using native::Arrays;
using native::Cell;
using native::Plan;

void take_inputs(const Plan& p, Buffers& in, Arrays& a) {
  if (p.inside) a.x = in.take(3), a.W = in.take(2), a.b = in.take(1);
  else a.z = in.take(3);
  if (p.fed >= 0) a.R = in.take(2);
  for (int k = 0; k < p.carries; k++) a.carry[k] = in.take(2);
  if (p.params) a.param = in.take(2);
  for (int k = 0; k < p.notes; k++) a.note[k] = in.take(3);
}
void take_forward(const Plan& p, Buffers& in, Buffers& out, Arrays& a) {
  take_inputs(p, in, a);
  a.y = out.take(3);
  for (int k = 0; k < p.carries; k++) a.last[k] = out.take(2);
  if (p.keep) a.kept = out.take(1);
}
void take_backward(const Plan& p, Buffers& in, Buffers& out, Arrays& a) {
  take_inputs(p, in, a);
  a.y = in.take(3);
  a.kept = in.take(1);
  a.dy = in.take(3);
  for (int k = 0; k < p.carries; k++) a.dlast[k] = in.take(2);
  for (int k = 0; k < p.carries; k++) a.dcarry[k] = out.take(2);
  if (p.inside) {
    a.dW = out.take(2), a.db = out.take(1);
    if (p.wants_x) a.dx = out.take(3);
  } else {
    a.dz = out.take(3);
  }
  if (p.fed >= 0) a.dR = out.take(2);
  if (p.params) a.dparam = out.take(2);
}

typedef void Take(const Plan&, Buffers&, Buffers&, Arrays&);
typedef bool Run(const Plan&, const Arrays&, const Cell&, native::Schedule*, void*);

struct Trials {
  XLA_FFI_CallFrame* frame;
  Plan plan;
  Cell cell;
  Take* take;
  Run* run;
  const int64_t* lead;
  int64_t axes, count;
  std::atomic<int64_t> next{0};
  std::atomic<bool> good{true};

  void one(int64_t trial, native::Schedule* schedule) {
    Buffers in{frame->args.args, lead, axes, trial}, out{frame->rets.rets, lead, axes, trial};
    Arrays a{};
    take(plan, in, out, a);
    if (!run(plan, a, cell, schedule, frame)) good = false;
  }
  // Side by side: each member takes whole trials.
  static void work(void* arg, int, native::Team&) {
    Trials& t = *(Trials*)arg;
    for (int64_t k; (k = t.next.fetch_add(1)) < t.count;) t.one(k, nullptr);
  }
};

XLA_FFI_Error* call(XLA_FFI_CallFrame* frame, Take* take, Run* run, int first_rank) {
  if (asked_for_version(frame)) return nullptr;
  if (frame->attrs.size != 1 || frame->attrs.types[0] != XLA_FFI_AttrType_ARRAY)
    return failed(frame, "lstm_jax native: expected one attribute, the plan");
  auto* plan = (XLA_FFI_Array*)frame->attrs.attrs[0];
  Trials t{};
  t.frame = frame, t.take = take, t.run = run;
  const int64_t id = read_plan({(const int64_t*)plan->data}, t.plan);
  {
    std::lock_guard<std::mutex> hold(lock);
    auto found = cells().find(id);
    if (found == cells().end())
      return failed(frame, "lstm_jax native: this process has not loaded the cell of the program");
    t.cell = found->second;
  }
  auto* result = (XLA_FFI_Buffer*)frame->rets.rets[0];
  t.lead = result->dims, t.axes = result->rank - first_rank, t.count = 1;
  for (int64_t k = 0; k < t.axes; k++) t.count *= t.lead[k];
  const int threads = (int)t.plan.threads;
  if (t.count >= 2 * threads && threads > 1) {
    t.plan.threads = 1;
    native::run_team(Trials::work, &t, threads, t.count * t.plan.products(), schedule, frame);
  } else {
    for (int64_t k = 0; k < t.count; k++) t.one(k, schedule);
  }
  return t.good ? nullptr : failed(frame, "lstm_jax native: out of memory");
}

}  // namespace

extern "C" {

XLA_FFI_Error* lstm_jax_native_forward(XLA_FFI_CallFrame* frame) {
  return call(frame, take_forward, native::forward, 3);
}
XLA_FFI_Error* lstm_jax_native_backward(XLA_FFI_CallFrame* frame) {
  return call(frame, take_backward, native::backward, 2);
}
void lstm_jax_native_add(int64_t id, native::Point* keep, native::Point* plain,
                         native::Point* back) {
  std::lock_guard<std::mutex> hold(lock);
  cells()[id] = {keep, plain, back};
}
int lstm_jax_native_lanes() { return LANES; }
}
