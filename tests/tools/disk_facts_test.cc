#include "tools/cli/disk_facts.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/tools/machine_root.h"

namespace strata::cli {
namespace {

class Disks : public testing::MachineRoot {
 protected:
  DiskFacts facts(const std::string& path) const { return disk_facts(path, root()); }
};

TEST_F(Disks, TheMountNearestToTheFolderIsItsDisk) {
  make_folder("data/deep");
  write_mounts({{"8:1", "/", "ext4", "/dev/sda1"},
                {"8:2", path("data"), "xfs", "/dev/sda2"},
                {"8:3", path("dat"), "btrfs", "/dev/sda3"}});
  EXPECT_EQ(facts(path("data/deep")).name(), "xfs on /dev/sda2");
  EXPECT_EQ(facts(path("data")).name(), "xfs on /dev/sda2");
  EXPECT_EQ(facts(path()).name(), "ext4 on /dev/sda1");
}

TEST_F(Disks, OfTwoMountsOfOnePlaceTheLaterOneCounts) {
  write_mounts({{"8:1", "/", "overlay", "overlay"}, {"8:2", "/", "ext4", "/dev/sda2"}});
  EXPECT_EQ(facts(path()).name(), "ext4 on /dev/sda2");
}

TEST_F(Disks, AFolderThatIsMissingLiesWhereItsParentDoes) {
  write_mounts({{"8:2", path(), "ext4", "/dev/sda2"}});
  const DiskFacts found = facts(path("not/yet/there"));
  EXPECT_EQ(found.name(), "ext4 on /dev/sda2");
  EXPECT_EQ(found.folder, std::filesystem::canonical(path()));
  EXPECT_FALSE(std::filesystem::exists(path("not")));
}

TEST_F(Disks, ABlankInAMountsPathIsRead) {
  make_folder("a disk");
  write_mounts(
      {{"8:1", "/", "ext4", "/dev/sda1"}, {"8:2", path("a\\040disk"), "xfs", "/dev/a\\040name"}});
  EXPECT_EQ(facts(path("a disk")).name(), "xfs on /dev/a name");
}

TEST_F(Disks, MemoryAndNetworkAreKnownByName) {
  for (const char* kind : {"tmpfs", "ramfs"}) {
    write_mounts({{"0:1", "/", kind, "none"}});
    EXPECT_TRUE(facts(path()).is_memory()) << kind;
    EXPECT_FALSE(facts(path()).is_network()) << kind;
  }
  for (const char* kind : {"nfs4", "9p", "cifs"}) {
    write_mounts({{"0:1", "/", kind, "server:/x"}});
    EXPECT_TRUE(facts(path()).is_network()) << kind;
    EXPECT_FALSE(facts(path()).is_memory()) << kind;
  }
}

TEST_F(Disks, APartitionHasItsDevicesModelAndItsDeviceMayRotate) {
  write_mounts({{"8:1", "/", "ext4", "/dev/sda1"}});
  write("sys/devices/sda/device/model", "SPINNER 3000   \n");
  write("sys/devices/sda/queue/rotational", "1\n");
  write("sys/devices/sda/sda1/start", "2048\n");
  make_folder("sys/dev/block");
  std::filesystem::create_symlink("../../devices/sda/sda1", path("sys/dev/block/8:1"));
  EXPECT_EQ(facts(path()).name(), "ext4 on /dev/sda1 (SPINNER 3000)");
  EXPECT_TRUE(facts(path()).is_rotating);
  write("sys/devices/sda/queue/rotational", "0\n");
  EXPECT_FALSE(facts(path()).is_rotating);
}

TEST_F(Disks, ADiskWithoutAModelIsNotBelievedToRotate) {
  write_mounts({{"254:0", "/", "ext4", "/dev/vda"}});
  write("sys/dev/block/254:0/queue/rotational", "1\n");
  EXPECT_FALSE(facts(path()).is_rotating);
}

TEST_F(Disks, WithoutATableOfMountsItIsUnknown) {
  EXPECT_EQ(facts(path()).name(), "an unknown disk");
  write("proc/self/mountinfo", "nonsense\n36 35\n36 35 8:1 / / rw - \n");
  EXPECT_EQ(facts(path()).name(), "an unknown disk");
}

}  // namespace
}  // namespace strata::cli
