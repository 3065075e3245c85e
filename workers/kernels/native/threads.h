// Threads that share out the tasks of one loop after another. Here only: who runs which task, and how to wait.
//
// The tasks of a loop are handed out one by one, so a thread whose core is taken away holds up no more than the task
// it has in hand, and one that sleeps is not waited for. Waiting spins for some microseconds, then sleeps on a futex:
// an idle pool costs nothing.
#pragma once
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>
#include <thread>
#include <vector>

class Threads {
  public:
    using Task = void (*)(void* context, int index, int thread);

    explicit Threads(int count) : count_(count) {
        for (int i = 1; i < count; i++) workers_.emplace_back([this, i] { work(i); });
    }

    ~Threads() {
        leaving_ = true;
        wake(true);
        for (auto& worker : workers_) worker.join();
    }

    int count() const { return count_; }

    // Calls `f(index, thread)` for 0 <= index < tasks; returns when all have returned.
    template <class F>
    void run(int tasks, const F& f) {
        if (tasks <= 1 || count_ == 1) {
            for (int i = 0; i < tasks; i++) f(i, 0);
            return;
        }
        const uint32_t epoch = epoch_.load(std::memory_order_relaxed) + 1;
        Job& job = jobs_[epoch & 1];
        job.task = [](void* context, int index, int thread) { (*(const F*)context)(index, thread); };
        job.context = (void*)&f;
        job.tasks.store(tasks, std::memory_order_relaxed);
        job.finished.store(0, std::memory_order_relaxed);
        ticket_.store((uint64_t)epoch << 32, std::memory_order_release);
        epoch_.store(epoch, std::memory_order_seq_cst);
        wake(false);
        take(0);
        for (int spins = 0; job.finished.load(std::memory_order_acquire) != tasks; spins++)
            spins < SPINS ? pause() : (void)sched_yield();
    }

  private:
    static constexpr int SPINS = 4000;  // some 50 us: a step's serial parts are shorter, its absence is longer

    struct Job {
        Task task;
        void* context;
        std::atomic<int> tasks{0}, finished{0};
    };

    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }

    // Takes tasks of the newest job until there are none left. A ticket is (epoch, next index): whoever moves it on
    // from the value that it read knows that the job was still the one of that epoch, and the job stays until the
    // task is finished.
    void take(int thread) {
        uint64_t ticket = ticket_.load(std::memory_order_acquire);
        for (;;) {
            Job& job = jobs_[(ticket >> 32) & 1];
            const int index = (int)(uint32_t)ticket;
            if (index >= job.tasks.load(std::memory_order_relaxed)) return;
            if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
            job.task(job.context, index, thread);
            job.finished.fetch_add(1, std::memory_order_release);
            ticket = ticket_.load(std::memory_order_acquire);
        }
    }

    void work(int thread) {
        uint32_t seen = 0;
        while (!leaving_) {
            int spins = 0;
            while (epoch_.load(std::memory_order_acquire) == seen && !leaving_) {
                if (++spins < SPINS) {
                    pause();
                    continue;
                }
                sleepers_.fetch_add(1, std::memory_order_seq_cst);
                syscall(SYS_futex, &epoch_, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
                sleepers_.fetch_sub(1, std::memory_order_seq_cst);
            }
            seen = epoch_.load(std::memory_order_acquire);
            take(thread);
        }
    }

    void wake(bool leave) {
        if (leave) epoch_.fetch_add(1);
        if (leave || sleepers_.load(std::memory_order_seq_cst))
            syscall(SYS_futex, &epoch_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
    }

    const int count_;
    std::vector<std::thread> workers_;
    Job jobs_[2];
    alignas(64) std::atomic<uint64_t> ticket_{0};
    alignas(64) std::atomic<uint32_t> epoch_{0};
    alignas(64) std::atomic<int> sleepers_{0};
    std::atomic<bool> leaving_{false};
};
