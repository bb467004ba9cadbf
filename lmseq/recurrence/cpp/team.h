// Steps of tasks, shared out over threads that stay.
//
// Threads that meet after every step of some tens of microseconds are at the mercy of the system: where one
// of them has to give its core to another program, all wait. So they wait for a while only, then take what is
// left of its share; and a thread that comes late finds nothing left to do. XLA begins what does not depend
// on each other at once: jobs that want more threads than there are cores take turns.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace lmseq {

// Every task of every step, once; no task of a step begins before all of the step before have ended.
class Job {
 public:
  using Task = std::function<void(int step, int task)>;

  Job(int steps, int tasks, int threads, const Task& run)
      : steps_(steps), tasks_(tasks), shares_(threads), run_(run) {}

  // As the index-th thread; returns when the last step has ended.
  void work(int index) {
    const int threads = static_cast<int>(shares_.size());
    for (int64_t step = 0; step < steps_; ++step) {
      int64_t ended = end(take_from(index, step));
      for (int spins = 0; ended < (step + 1) * tasks_; ++spins) {
        if (spins < kPatience) {
          pause();
        } else if (spins == kPatience) {
          // Some thread has lost its core. Not earlier: its weights are near that core and far from here.
          int64_t taken = 0;
          for (int i = 1; i < threads; ++i) taken += take_from((index + i) % threads, step);
          end(taken);
        } else {
          std::this_thread::yield();  // It may be this core that the other needs.
        }
        ended = ended_.load(std::memory_order_acquire);
      }
    }
  }

 private:
  static constexpr int kPatience = 1000;  // pauses, some twenty microseconds

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  // Say that tasks of this step have ended; returns how many have over all steps.
  int64_t end(int64_t tasks) { return ended_.fetch_add(tasks, std::memory_order_acq_rel) + tasks; }

  // Tasks taken from a thread's share so far, over all steps; a cache line of its own.
  struct alignas(64) Share {
    std::atomic<int64_t> taken{0};
  };

  // Run what is left in a share of this step. `run_` is touched only with a task in hand, which is to say
  // while the thread that waits for the job is still there.
  int64_t take_from(int share, int64_t step) {
    const int threads = static_cast<int>(shares_.size());
    const int begin = static_cast<int>(int64_t{tasks_} * share / threads);
    const int64_t size = int64_t{tasks_} * (share + 1) / threads - begin;
    std::atomic<int64_t>& taken = shares_[share].taken;
    int64_t ended = 0, next = taken.load(std::memory_order_relaxed);
    while (next < (step + 1) * size) {
      if (!taken.compare_exchange_weak(next, next + 1, std::memory_order_relaxed)) continue;
      run_(static_cast<int>(step), begin + static_cast<int>(next - step * size));
      ++ended;
      ++next;
    }
    return ended;
  }

  const int64_t steps_;
  const int tasks_;
  std::vector<Share> shares_;
  std::atomic<int64_t> ended_{0};
  const Task& run_;
};

// A thread of a team. Two threads that meet every few microseconds and were woken on the same core would
// share it for milliseconds before the system parts them, so that a thread is kept from the core of whom it
// helps.
class Worker {
 public:
  std::function<void()> work;

  // Called in the thread itself, before anything else.
  void begin() {
#if defined(__linux__)
    id_ = static_cast<pid_t>(syscall(SYS_gettid));
#endif
  }

  // Called by whom it is going to help.
  void keep_away() {
#if defined(__linux__)
    const int here = sched_getcpu();
    cpu_set_t others;
    if (here < 0 || here == avoided_ || id_ == 0 || sched_getaffinity(0, sizeof others, &others) != 0) return;
    CPU_CLR(here, &others);
    if (CPU_COUNT(&others) > 0 && sched_setaffinity(id_, sizeof others, &others) == 0) avoided_ = here;
#endif
  }

 private:
#if defined(__linux__)
  std::atomic<pid_t> id_{0};
  int avoided_ = -1;
#endif
};

// The cores that this process may use, some of which a job holds while it lasts: who came first has them
// first.
class Cores {
 public:
  class Hold {
   public:
    Hold(Cores& cores, int most) : cores_(cores), number_(std::min(most, cores.all_)) {
      std::unique_lock<std::mutex> hold(cores_.mutex_);
      const uint64_t turn = cores_.last_++;
      cores_.changed_.wait(hold, [&] { return turn == cores_.next_ && number_ <= cores_.free_; });
      cores_.free_ -= number_;
      ++cores_.next_;
      hold.unlock();
      cores_.changed_.notify_all();
    }
    Hold(const Hold&) = delete;
    ~Hold() {
      {
        std::lock_guard<std::mutex> hold(cores_.mutex_);
        cores_.free_ += number_;
      }
      cores_.changed_.notify_all();
    }

   private:
    Cores& cores_;
    const int number_;
  };

 private:
  static int count() {
#if defined(__linux__)
    cpu_set_t mine;
    if (sched_getaffinity(0, sizeof mine, &mine) == 0) return std::max(CPU_COUNT(&mine), 1);
#endif
    return std::max(static_cast<int>(std::thread::hardware_concurrency()), 1);
  }

  const int all_ = count();
  int free_ = all_;
  uint64_t last_ = 0, next_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
};

class Team {
 public:
  // A job on the caller's thread and on up to most - 1 others, fewer where they are taken. Waits for its
  // turn. The first of what tasks throw is thrown once all have ended: in another thread it would end the
  // process, and in this one leave the others with nothing to work on.
  void run(int most, int steps, int tasks, const Job::Task& work) {
    const Cores::Hold cores(cores_, most);
    std::atomic<bool> is_thrown{false};
    std::exception_ptr thrown;
    const Job::Task task = [&](int step, int i) {
      try {
        work(step, i);
      } catch (...) {
        if (!is_thrown.exchange(true)) thrown = std::current_exception();
      }
    };
    std::vector<Worker*> mine;
    std::shared_ptr<Job> job;
    {
      std::lock_guard<std::mutex> hold(mutex_);
      while (static_cast<int>(workers_.size()) + 1 < most && hire()) {
      }
      while (!idle_.empty() && static_cast<int>(mine.size()) + 1 < most) {
        mine.push_back(idle_.back());
        idle_.pop_back();
      }
      job = std::make_shared<Job>(steps, tasks, static_cast<int>(mine.size()) + 1, task);
      for (size_t i = 0; i < mine.size(); ++i) {
        mine[i]->keep_away();
        mine[i]->work = [job, index = static_cast<int>(i) + 1] { job->work(index); };
      }
    }
    if (!mine.empty()) wake_.notify_all();
    job->work(0);  // Threads that were held up may still be on their way, and will see that all is done.
    if (thrown) std::rethrow_exception(thrown);
  }

  // Never destroyed: its threads wait until the process ends.
  static Team& of_process() {
    static Team* team = new Team;
    return *team;
  }

 private:
  // One more thread, unless the system has no more to give.
  bool hire() {
    auto worker = std::make_unique<Worker>();
    idle_.reserve(workers_.size() + 1);
    workers_.reserve(workers_.size() + 1);
    try {
      std::thread(&Team::serve, this, worker.get()).detach();
    } catch (const std::system_error&) {
      return false;
    }
    idle_.push_back(worker.get());
    workers_.push_back(std::move(worker));
    return true;
  }

  void serve(Worker* self) {
    self->begin();
    std::unique_lock<std::mutex> hold(mutex_);
    for (;;) {
      wake_.wait(hold, [&] { return static_cast<bool>(self->work); });
      hold.unlock();
      self->work();
      hold.lock();
      self->work = nullptr;
      idle_.push_back(self);
    }
  }

  Cores cores_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<Worker*> idle_;
};

}  // namespace lmseq
