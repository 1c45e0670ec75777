#include "parallel/tcp_world.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <future>
#include <stdexcept>
#include <thread>

#include "parallel/tcp_operation.h"
#include "parallel/tcp_socket.h"
#include "tests/parallel/failure_of.h"

namespace patchflow {
namespace {

using testing::HasSubstr;
using Clock = TcpSocket::Clock;

std::string WhatOf(const std::function<void()>& fn) {
  try {
    fn();
  } catch (const CommunicatorError& error) {
    return error.what();
  }
  return "";
}

TEST(TcpDoorTest, AnIdNamesHostPortAndSecret) {
  const auto door = TcpDoor::Open("127.0.0.1");
  const TcpAddress address = TcpAddressOf(door->id());
  EXPECT_EQ(address.host, "127.0.0.1");
  EXPECT_EQ(address.secret, door->secret());
  EXPECT_NE(TcpDoor::Open("127.0.0.1")->secret(), door->secret());
  EXPECT_LE(door->id().size(), 256U);
}

TEST(TcpDoorTest, RefusesWhatIsNoHostAndNoId) {
  EXPECT_THROW(TcpDoor::Open(""), CommunicatorError);
  EXPECT_THROW(TcpDoor::Open("two words"), CommunicatorError);
  EXPECT_THROW(TcpAddressOf("nccl 127.0.0.1 1 0123456789abcdef0123456789abcdef"),
               CommunicatorError);
  EXPECT_THROW(TcpAddressOf(std::string(128, '\0')), CommunicatorError);
}

TEST(TcpOperationTest, RefusesWhatNoOperationSays) {
  EXPECT_THROW(OperationOf("", 0, 2), CommunicatorError);
  EXPECT_THROW(OperationOf("seven b", 0, 2), CommunicatorError);
  EXPECT_THROW(OperationOf(PackNumbers({9, 6, 1}), 0, 2), CommunicatorError);
  EXPECT_THROW(OperationOf(PackNumbers({0, 6, -1}), 0, 2), CommunicatorError);
  EXPECT_THROW(OperationOf(PackNumbers({0, 999, 1}), 0, 2), CommunicatorError);
  EXPECT_THROW(OperationOf(PackNumbers({3, 0, 2, 8}), 0, 2), CommunicatorError);  // To rank 2 of 2.
  EXPECT_THROW(OperationOf(PackNumbers({3, 0, 1, -8}), 0, 2), CommunicatorError);
}

TEST(TcpWorldTest, LargeTensorsCrossBothWays) {
  RunRanks(4, [](const Rank& here) {
    const auto all = here.world.Split(0, "all");
    const Tensor own = at::full({4, 1 << 18}, here.index(), at::kFloat);
    const Tensor out = at::empty({4, 1 << 18}, at::kFloat);
    for (int i = 0; i < 3; ++i) {
      all->AllToAll(own, out).Wait();
    }
    for (int rank = 0; rank < 4; ++rank) {
      EXPECT_TRUE(at::equal(out[rank], at::full({1 << 18}, rank, at::kFloat)));
    }
  });
}

TEST(TcpWorldTest, AThrowOnAGuestEndsAllWithItsMessage) {
  std::atomic<int> unblocked = 0;
  const std::string failure = FailureOf(4, [&unblocked](const Rank& rank) {
    try {
      const auto all = rank.world.Split(0, "all");  // Others may still be in theirs.
      if (rank.index() == 3) {
        throw std::runtime_error("out of luck");
      }
      all->AllReduceSum(at::zeros({1})).Wait();
    } catch (const CommunicatorError& error) {
      EXPECT_THAT(error.what(), HasSubstr("out of luck"));
      ++unblocked;
      throw;
    }
  });
  EXPECT_EQ(failure, "rank 3: out of luck");
  EXPECT_EQ(unblocked, 3);
}

TEST(TcpWorldTest, AGuestSaysWhatItWaitedFor) {
  EXPECT_THAT(FailureOf(2,
                        [](const Rank& rank) {
                          const auto all = rank.world.Split(0, "all");
                          if (rank.index() == 1) {
                            all->AllReduceSum(at::zeros({1})).Wait();
                          }
                        },
                        {.wait_timeout = absl::Milliseconds(200)}),
              HasSubstr("rank 1 waited 200ms for all communicator, rank 1 of 2: operation #0"));
}

TEST(TcpWorldTest, DifferentCollectivesAreRefused) {
  EXPECT_THAT(FailureOf(2,
                        [](const Rank& rank) {
                          const auto all = rank.world.Split(0, "all");
                          all->AllReduceSum(at::zeros({1 + rank.index()})).Wait();
                        }),
              HasSubstr("all_reduce_sum of"));
}

TEST(TcpWorldTest, AnAbortedCommunicatorEndsItsRanksAlone) {
  RunRanks(2, [](const Rank& rank) {
    const auto one = rank.world.Split(0, "one");
    const auto two = rank.world.Split(0, "two");
    if (rank.index() == 1) {
      one->Abort("enough");
    }
    EXPECT_THAT(WhatOf([&] { one->AllReduceSum(at::zeros({1})).Wait(); }), HasSubstr("enough"));
    const Tensor t = at::ones({1});
    two->AllReduceSum(t).Wait();
    EXPECT_EQ(t.item<float>(), 2);
  });
}

TEST(TcpWorldTest, AnOperationOfAGuestNeverWaitedForIsReported) {
  EXPECT_THAT(FailureOf(2,
                        [](const Rank& rank) {
                          const auto all = rank.world.Split(0, "all");
                          Pending sum = all->AllReduceSum(at::zeros({1}));
                          if (rank.index() == 0) {
                            sum.Wait();
                          }
                        }),
              HasSubstr("never waited for: all communicator, rank 1"));
}

TEST(TcpWorldTest, AStrangerIsLetGoAndDisturbsNobody) {
  auto door = TcpDoor::Open("127.0.0.1");
  const std::string id = door->id();
  const TcpAddress address = TcpAddressOf(id);
  auto host = TcpWorld::Host(std::move(door), 2, 1, {});
  const auto soon = Clock::now() + std::chrono::seconds(10);
  for (const TcpFrame& hello :
       {TcpFrame{.word = TcpWord::kHello, .channel = 1, .number = 2, .text = "guess"},
        TcpFrame{.word = TcpWord::kHello, .channel = 0, .number = 2, .text = address.secret},
        TcpFrame{.word = TcpWord::kHello, .channel = 1, .number = 3, .text = address.secret},
        TcpFrame{.word = TcpWord::kGoodbye, .channel = 1, .number = 2, .text = address.secret}}) {
    TcpSocket stranger(TcpSocket::Connect(address.host, address.port, soon));
    stranger.Send(hello, soon);
    EXPECT_FALSE(stranger.ReceiveFrame(soon).has_value());
  }
  auto guest = TcpWorld::Join(id, 2, 1, 1, {});
  auto split = std::async(std::launch::async, [&] { return guest[0]->Split(0, "all")->size(); });
  EXPECT_EQ(host[0]->Split(0, "all")->size(), 2);
  EXPECT_EQ(split.get(), 2);
}

TEST(TcpWorldTest, WithoutAHostAGuestGivesUpInTime) {
  std::string id;
  { id = TcpDoor::Open("127.0.0.1")->id(); }
  auto guest = TcpWorld::Join(id, 2, 1, 1, {.timeout = absl::Milliseconds(300)});
  const auto began = Clock::now();
  EXPECT_THAT(WhatOf([&] { guest[0]->Split(0, "all"); }), HasSubstr("can't reach rank 0"));
  EXPECT_LT(Clock::now() - began, std::chrono::seconds(5));
}

// Rank 1 in a process of its own.
pid_t ForkGuest(const std::string& id, const std::function<void(Communicator&)>& fn) {
  const pid_t pid = fork();
  if (pid == 0) {
    try {
      auto guest = TcpWorld::Join(id, 2, 1, 1, {});
      fn(*guest[0]->Split(0, "all"));
      guest.clear();
    } catch (const std::exception&) {
      _exit(EXIT_FAILURE);
    }
    _exit(EXIT_SUCCESS);
  }
  return pid;
}

TEST(TcpWorldTest, AKilledProcessEndsTheWorldAtOnce) {
  auto door = TcpDoor::Open("127.0.0.1");
  const pid_t other = ForkGuest(door->id(), [](Communicator& all) {
    all.AllReduceSum(at::zeros({1})).Wait();
    pause();
  });
  auto host = TcpWorld::Host(std::move(door), 2, 1, {});
  const auto all = host[0]->Split(0, "all");
  all->AllReduceSum(at::zeros({1})).Wait();
  Pending sum = all->AllReduceSum(at::zeros({1}));
  const auto killed = Clock::now();
  kill(other, SIGKILL);
  EXPECT_THAT(WhatOf([&] { sum.Wait(); }), HasSubstr("the process of rank 1 is gone"));
  EXPECT_LT(Clock::now() - killed, std::chrono::seconds(2));
  waitpid(other, nullptr, 0);
}

TEST(TcpWorldTest, AProcessThatSaysGoodbyeEndsNothing) {
  auto door = TcpDoor::Open("127.0.0.1");
  const pid_t other =
      ForkGuest(door->id(), [](Communicator& all) { all.AllReduceSum(at::zeros({1})).Wait(); });
  auto host = TcpWorld::Host(std::move(door), 2, 1, {.timeout = absl::Milliseconds(500)});
  const auto all = host[0]->Split(0, "all");
  all->AllReduceSum(at::zeros({1})).Wait();
  int state = 0;
  ASSERT_EQ(waitpid(other, &state, 0), other);
  EXPECT_TRUE(WIFEXITED(state) && WEXITSTATUS(state) == EXIT_SUCCESS) << state;
  // The world is whole: it is the wait that ends.
  EXPECT_THAT(WhatOf([&] { all->Send(at::zeros({1}), 1).Wait(); }), HasSubstr("waited 500ms"));
}

}  // namespace
}  // namespace patchflow
