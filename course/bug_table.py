"""The table of bugs.py: forty one-line bugs, each with what it shows and the test that knows it.

Each of them trains or samples without complaint. `reported` is a public thread about the same kind
of bug, or a question about it; where it is empty, none was looked for with success.
"""

from typing import NamedTuple


class Bug(NamedTuple):
    file: str
    before: str  # exact source text, once in the file
    after: str
    symptom: str  # what the logs say, or do not say
    shows: str  # what a plot, a contact sheet or a video shows
    test: str  # a fast test that fails with the bug
    reported: str = ""  # a public thread
    see: str = ""  # a run of seconds to minutes in the planted tree


GITHUB = "https://github.com/"
# a small toy set beside the trees, which all of them share; DIRECT is the opening lab's run
SMALL = "--bf16 --data ../small --videos 24 --out out/bug --weights out/bug.pt"
DIRECT = (
    f"python distill_stage1.py {SMALL} --batch 4 --target-steps 1 --steps 30 --warm-fake 4 "
    "--lr 2e-4 --save-every 10"
)
FOUR_STEPS = f"python distill_stage1.py {SMALL} --steps 30 --warm-fake 6 --save-every 10"
ADVERSARIAL = (
    f"python distill_stage2.py {SMALL} --warm-disc 5 --phase-steps 5 --last-steps 20 "
    "--curriculum 3 --save-every 10"
)
TEACHER = "python sample.py --bf16 --model teacher --steps 10 --out talk.png"
STUDENT = "python sample.py --out talk.mp4"

STAGE1, STAGE2 = "tests/test_distill_stage1.py::", "tests/test_distill_stage2.py::"
LOOPS, DIFFUSION = "tests/test_stages.py::", "tests/test_diffusion.py::"
LOOP1 = (
    LOOPS + "test_the_loop_of_stage_1_moves_the_student_to_the_guided_teachers_mean_and_variance"
)
LOOP2 = LOOPS + "test_the_loop_of_stage_2_moves_the_student_between_the_data_and_the_reference[0.0]"

BUGS = [
    # ---- stage 1, distribution matching
    Bug(
        "distill_stage1.py",
        "g = dmd_gradient(x0_fake, x0_real, x0_hat, cond.mask)",
        "g = dmd_gradient(x0_real, x0_fake, x0_hat, cond.mask)",
        "the student climbs away from the teacher; fake_loss falls, as if all went well, while g "
        "grows",
        "blurred, reddish masks instead of faces within thirty updates; colour runs off",
        LOOP1,
        GITHUB + "hao-ai-lab/FastVideo/issues/836",
        DIRECT,
    ),
    Bug(
        "distill_stage1.py",
        "target = (x0_hat - g).detach()  # detach",
        "target = x0_hat - g  # detach",
        "the two x̂0 cancel: the loss is finite and its gradient is 0, in every row of the log",
        "every contact sheet is the first one: of a one-step student the average face",
        STAGE1 + "test_gradient_of_the_surrogate_is_g",
        "",
        DIRECT,
    ),
    Bug(
        "distill_stage1.py",
        "x0_fake = fake_score(fake, xt, t, cond)",
        "x0_fake = fake_score(teacher, xt, t, cond)",
        "g has nothing that answers the student: it is guidance alone, small from the first row "
        "on, and without guidance exactly 0",
        "sharper lips at first, then overdrawn faces, as g keeps pushing the same way",
        LOOP1,
        "",
        DIRECT,
    ),
    Bug(
        "distill_stage1.py",
        "loss = fake_loss(fake, x0_hat,",
        "loss = fake_loss(student, x0_hat,",
        "the fake score gets no gradient and stays the teacher: as the bug above, but fake_loss "
        "moves with the student",
        "as the bug above: g never falls, colours and contrast go on growing",
        LOOP1,
        "",
        DIRECT,
    ),
    Bug(
        "distill_stage1.py",
        "x0_real = real_score(teacher, xt, t, cond, cfg.s_ref, cfg.s_audio)",
        "x0_real = real_score(teacher, xt, t, cond, 1, 1)",
        "nothing: every curve looks as it should",
        "mouths open less and follow the sound less; only `jaw`, `width` and `rounding` tell",
        LOOP1,
    ),
    Bug(
        "distill_stage1.py",
        'if cfg.simulate == "backward":',
        'if cfg.simulate != "backward":',
        "the student's inputs are noised real clips: all losses look better than they should",
        "good first steps; in the sample of four steps errors add up, and the picture gets soft",
        LOOP1,
        GITHUB + "modelscope/DiffSynth-Studio/pull/1627",
        FOUR_STEPS,
    ),
    Bug(
        "distill_stage1.py",
        "k = 1 + int(torch.randint(cfg.target_steps,",
        "k = 1 + int(torch.randint(max(1, cfg.target_steps - 1),",
        "the last of the student's steps, which makes the picture, never learns; nothing in the "
        "log says so",
        "four steps look like the untrained student's; three steps (sample.py --steps 3) better",
        LOOP1,
        "",
        FOUR_STEPS,
    ),
    Bug(
        "distill_stage1.py",
        "update_ema(ema, student, updates, EMA)  # ema",
        "update_ema(ema, ema, updates, EMA)  # ema",
        "the student learns, as g and the latents' spread show; what is shipped does not",
        "all contact sheets are alike, and quick_eval's numbers never change",
        LOOP1,
        GITHUB + "lucidrains/DALLE2-pytorch/issues/131",
        DIRECT,
    ),
    Bug(
        "distill_stage1.py",
        "scale = (free * (x0_hat - x0_real).abs()).sum((1, 2, 3, 4), keepdim=True) / count",
        "scale = (free * (x0_hat - x0_real).abs()).sum() / count.sum()",
        "one normaliser for the whole batch: clips at small t, whose differences are small, hardly "
        "count",
        "layout and colour learn, fine detail does not: softer eyes and teeth",
        STAGE1 + "test_dmd_gradient_is_normalised_for_each_clip_and_over_its_free_frames",
        GITHUB + "tianweiy/DMD2/issues/46",
    ),
    # ---- what both stages share
    Bug(
        "student.py",
        "    with torch.no_grad():\n        for tau, next_tau",
        "    with torch.enable_grad():\n        for tau, next_tau",
        "memory and time of an iteration grow with the number of steps; early steps are trained "
        "for what later ones do",
        "seconds per iteration double; samples differ little at first",
        STAGE1
        + "test_rollout_calls_the_network_k_times_and_only_the_last_call_carries_gradient[2]",
    ),
    Bug(
        "student.py",
        "xt = add_noise(x0_hat, noise(), torch.as_tensor(",
        "xt = add_noise(x0_hat, xt, torch.as_tensor(",
        "the sample is noised again with the input of its own step, not with fresh noise",
        "contrast grows within a chunk and from chunk to chunk, to dark skin on white; sample.py "
        "--model stage1 shows it at once",
        STAGE1
        + "test_rollout_calls_the_network_k_times_and_only_the_last_call_carries_gradient[2]",
        "",
        "python sample.py --model stage1 --out talk.png",
    ),
    Bug(
        "student.py",
        "lr=lr, betas=(0.0, 0.99), weight_decay",
        "lr=lr, weight_decay",
        "momentum of ten updates against a moving target: losses swing more widely",
        "little in stage 1; in stage 2 logits and faces oscillate",
        LOOPS + "test_every_network_has_an_optimiser_of_its_own_parameters_without_momentum"
        "[distill_stage1]",
        GITHUB + "mlpc-ucsd/ViTGAN/issues/6",
    ),
    Bug(
        "common.py",
        "list(model.parameters()), 1 - d)",
        "list(model.parameters()), d)",
        "the average forgets all but one hundredth of itself: it is the network of the last step",
        "sheets flicker from one checkpoint to the next; quick_eval is as noisy as without average",
        "tests/test_common.py::test_ema_of_a_constant_is_that_constant_and_warms_up",
        GITHUB + "huggingface/diffusers/issues/1864",
    ),
    # ---- the equations of diffusion
    Bug(
        "diffusion.py",
        "return alpha * x0 + sigma * eps",
        "return alpha * x0 + sigma**2 * eps",
        "variance in the place of the standard deviation: losses are lower, since less noise is "
        "in the input",
        "samples of the shipped teacher are too smooth and look the cleaner for it; heads move by "
        "a quarter less",
        DIFFUSION + "test_x0_eps_v_round_trips[t3]",
        "",
        TEACHER,
    ),
    Bug(
        "diffusion.py",
        "return alpha * eps - sigma * x0",
        "return alpha * x0 - sigma * eps",
        "a target that is right at no t but learnable at all: the loss falls as ever",
        "noise: the sampler still believes in v = αε − σx0",
        DIFFUSION + "test_x0_eps_v_round_trips[t3]",
    ),
    Bug(
        "diffusion.py",
        "return add_noise(x0_from_v(xt, v, t), eps_from_v(xt, v, t), s)",
        "return add_noise(x0_from_v(xt, v, s), eps_from_v(xt, v, s), s)",
        "the answer at t is read as if it were given at s",
        "ten steps of the teacher give nothing but noise; one-step students are fine",
        DIFFUSION + "test_ddim_with_the_true_v_stays_on_the_path",
        GITHUB + "Stability-AI/stablediffusion/pull/226",
        TEACHER,
    ),
    Bug(
        "diffusion.py",
        "return [T * (steps - i) / steps for i in range(steps + 1)]",
        "return [T * (steps - i) / (steps + 1) for i in range(steps + 1)]",
        "sampling starts from pure noise that is labelled t < T: noise is taken for signal",
        "washed-out faces in few steps, hardly visible in forty",
        DIFFUSION + "test_trailing_timesteps_start_at_T_and_end_at_0",
        GITHUB + "Project-MONAI/GenerativeModels/issues/397",
        "python sample.py --model stage1 --out talk.png",
    ),
    Bug(
        "diffusion.py",
        "/ T * torch.pi / 2",
        "/ (T + 1) * torch.pi / 2",
        "at t = T a trace of the clip is left in training, of which sampling has none",
        "almost nothing here; on large pictures a shift of the mean brightness",
        DIFFUSION + "test_schedule_is_clean_at_0_and_pure_noise_at_T",
        GITHUB + "lucidrains/denoising-diffusion-pytorch/issues/19",
    ),
    Bug(
        "diffusion.py",
        "s_audio * (v_full - v_ref)",
        "s_audio * (v_full - v_none)",
        "sound's scale guides the portrait, too",
        "at the teacher's default scales hardly a difference, eyes and mouths a little bolder; in "
        "stage 1 with s_ref = 1 the branch v(∅) is not even evaluated, and nothing changes",
        DIFFUSION + "test_guidance_with_scales_1_is_the_full_branch_and_with_0_the_empty_one",
        "",
        TEACHER,
    ),
    Bug(
        "diffusion.py",
        "free = (1 - mask)[:, :, None, None, None].expand_as(v)",
        "free = mask[:, :, None, None, None].expand_as(v)",
        "the loss looks only at frames that are given, and falls to 0; without any, it is nan",
        "a network that copies its context and draws noise elsewhere",
        DIFFUSION + "test_loss_is_zero_for_the_truth_and_counts_only_free_frames",
    ),
    # ---- the teacher and its data
    Bug(
        "teacher.py",
        "drop(tiled, *keep.T)).chunk(n)",
        "tiled).chunk(n)",
        "all branches are the full one: guidance of any scale changes nothing, at full cost",
        "--guidance-audio 1 and 4 give the same video",
        "tests/test_teacher.py::test_branches_are_none_then_portrait_then_portrait_and_sound",
        GITHUB + "QiaoyuHu89/DiffGui/issues/5",
        TEACHER + " --guidance-audio 6",
    ),
    Bug(
        "teacher.py",
        "x = hold_context(ddim_step(x, v, t, s), cond, eps, s)",
        "x = ddim_step(x, v, t, s)",
        "the given frames drift away from what was given",
        "a jump at every join of two chunks, each 12 frames",
        "tests/test_teacher.py::"
        "test_context_places_hold_the_noised_truth_as_in_training_and_are_returned_as_given",
        "",
        TEACHER.replace("png", "gif"),
    ),
    Bug(
        "teacher.py",
        "t = share(T * (1 - u)).to(device)",
        "t = share(0.999 * T * (1 - u)).to(device)",
        "T, where every sample starts, is never trained; the loss does not change",
        "the first step is a guess: brightness and layout a little off, worst with one step",
        LOOPS + "test_the_teachers_times_reach_T_and_not_0[0.0-times0]",
        GITHUB + "lucidrains/imagen-pytorch/issues/265",
    ),
    Bug(
        "teacher.py",
        "keep_ref = (drawn > cfg.drop_ref).float()",
        "keep_ref = (drawn > cfg.drop_audio).float()",
        "the rates are not what the options say; nobody notices, since both are 0.1",
        "with --drop-audio 0.4 the portrait is lost as often as the sound: faces resemble less",
        LOOPS + "test_portrait_and_sound_are_dropped_at_the_rates_asked_for",
        GITHUB + "gligen/GLIGEN/issues/60",
    ),
    Bug(
        "latents.py",
        "min(ref_gap or -n, away.max())",
        "min(-n, away.max())",
        "the portrait may be a frame of the clip itself: the loss is lower",
        "heads hold the portrait's pose and lids its state: little sway, few blinks",
        "tests/test_latents.py::test_the_portrait_is_a_second_away_or_as_far_as_the_video_allows",
    ),
    Bug(
        "audio_features.py",
        "side = (WINDOW - ROWS) // 2",
        "side = WINDOW - ROWS",
        "every frame hears the sound of two frames before; a network that is trained so learns it",
        "with the shipped weights lips are 80 ms late: `lag` of the table is 2",
        "tests/test_audio_features.py::test_an_impulse_at_the_time_of_frame_k_is_centred_in_window_k"
        "[7]",
        GITHUB + "Rudrabha/Wav2Lip/issues/7",
        STUDENT,
    ),
    Bug(
        "autoencoder.py",
        "return self.decoder(z * self.std + self.mean)",
        "return self.decoder(z * self.std)",
        "latent losses are right; only pixels are wrong",
        "all colours are shifted alike, in the truth's row of a contact sheet, too; with the "
        "shipped weights by one level of 255, so no picture shows it",
        "tests/test_autoencoder.py::test_latents_are_standardised_and_decoding_undoes_it",
        GITHUB + "priyammaz/PyTorch-Adventures/issues/4",
        STUDENT,
    ),
    # ---- stage 2, adversarial
    Bug(
        "distill_stage2.py",
        "return pair_loss(fake, real)",
        "return pair_loss(real, fake)",
        "the student helps D against the data; self-compare, twice as heavy, still pulls the right "
        "way, so it learns on at a third to six tenths of the right gradient, and no number is odd",
        "nothing in a short run; with --self-compare 0 it would run away from the data",
        STAGE2 + "test_losses_at_hand_computed_logits",
        GITHUB + "AlexiaJM/RelativisticGAN/issues/2",
        ADVERSARIAL,
    ),
    Bug(
        "distill_stage2.py",
        "fake = disc(xt_fake, t, cond)",
        "fake = disc(xt_fake.detach(), t, cond)",
        "the student gets no gradient; the discriminator wins, and loss_g grows",
        "contact sheets do not change, accuracy goes to 1",
        LOOP2,
        GITHUB + "nikhilsinghmus/image2reverb/issues/37",
        ADVERSARIAL,
    ),
    Bug(
        "distill_stage2.py",
        "return (value - disc(",
        "return (value.detach() - disc(",
        "half of the penalty's gradient is missing: D is pushed at the noised clip only",
        "logits grow, `penalty` stays high, training gets restless",
        STAGE2 + "test_penalty_leaves_context_alone_and_trains_through_both_values",
        GITHUB + "brownvc/R3GAN/issues/20",
    ),
    Bug(
        "distill_stage2.py",
        "xt_fake = hold_context(add_noise(x0_hat, eps, t), cond)",
        "xt_fake = hold_context(add_noise(x0_hat, fresh(), t), cond)",
        "D compares clips in different noise: its gradient is noisier, accuracy nearer 0.5",
        "slower and grainier, nothing else",
        LOOPS + "test_the_times_of_stage_2_reach_both_ends[0.0-0-500]",
    ),
    Bug(
        "distill_stage2.py",
        "weight * self_compare_loss(fake, reference)",
        "weight * self_compare_loss(reference, fake)",
        "the student is asked to be below its reference, for which D learns the same",
        "a worse picture than without self-compare: blur, weak lips",
        STAGE2 + "test_what_both_players_do_with_real_reference_and_fake[relativistic]",
        "",
        ADVERSARIAL,
    ),
    Bug(
        "phases.py",
        "old + u * (i + 1) / warm * (new - old)",
        "old + u * i / warm * (new - old)",
        "the gap never opens quite, and in the first update not at all",
        "`last_t` jumps at the end of each warm-up; with --curriculum 1 there is no curriculum",
        STAGE2 + "test_the_gap_opens_by_one_wth_at_each_update_and_is_whole_in_the_last",
    ),
    Bug(
        "phases.py",
        "if n == 1 and i < warm:",
        "if n < 1 and i < warm:",
        "in the warm-up of phase 1 pure noise is labelled t < T, an input that no sampler makes",
        "grey, noisy sheets at the start of phase 1, that heal when the warm-up ends",
        STAGE2 + "test_every_rollout_starts_from_pure_noise_at_T[0-1]",
    ),
    # ---- noise, chunks and judges
    Bug(
        "departures.py",
        "root = vectors * values.clamp_min(0).sqrt() @ vectors.T",
        "root = vectors * values.clamp_min(0) @ vectors.T",
        "K in the place of its root: the noise's variance is not 1, in no frame",
        "torn outlines, hair and shirt in flakes, half as much flicker again",
        "tests/test_departures.py::"
        "test_shaped_noise_stays_normal_is_alike_over_its_length_and_weak_at_the_mouth",
        "",
        STUDENT,
    ),
    Bug(
        "generate.py",
        "x[:, CHUNK - given :], 1",
        "x[:, :given], 1",
        "each chunk goes on from the first frames of the one before, not from its last",
        "a jump at every join, and the same moment again",
        "tests/test_sample.py::test_a_chunk_is_given_the_last_four_latents_of_the_one_before",
        "",
        STUDENT,
    ),
    Bug(
        "generate.py",
        "chunk_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))",
        "chunk_generator.manual_seed(0)",
        "all seeds are one: `diversity` and every spread over seeds are 0",
        "--seed changes nothing, and heads make the same movement in each chunk",
        "tests/test_sample.py::"
        "test_every_chunk_starts_from_the_same_noise_however_many_draws_a_model_makes",
        GITHUB + "LostRuins/koboldcpp/issues/1107",
        STUDENT + " --seed 5",
    ),
    Bug(
        "evaluation/measures.py",
        "cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ cov2 @ root), 0, None)).sum()",
        "cross = np.clip(np.linalg.eigvalsh(root @ cov2 @ root), 0, None).sum()",
        "a distance of 0 for sets whose covariances are far apart; its floor at 0 hides the rest",
        "FID-toy and FVD-toy hardly tell a frozen video from a true one",
        "tests/test_metrics.py::test_frechet_distance_of_diagonal_gaussians_is_the_closed_form",
        GITHUB + "crowsonkb/k-diffusion/pull/78",
    ),
    Bug(
        "evaluation/measures.py",
        "return motion[..., 3:6].std(1).mean(0)",
        "return motion[..., 3:6].std((0, 1))",
        "differences between people count as motion",
        "still faces of many people score as lively ones",
        "tests/test_metrics.py::test_head_spread_is_within_a_video_not_between_videos",
    ),
    Bug(
        "evaluation/metrics_losses.py",
        "windows[video][k : k + length].copy()",
        "windows[video][max(0, k - 1) : max(0, k - 1) + length].copy()",
        "the sync judge learns lips with the sound of one frame before, and is as sure of it",
        "`sync_offset` of the true videos is -1, not 0, and 0 for lips that are a frame early",
        "tests/test_metrics.py::"
        "test_the_sync_judge_learns_from_pieces_whose_sound_is_their_own_frames",
        GITHUB + "Rudrabha/Wav2Lip/issues/437",
    ),
]
